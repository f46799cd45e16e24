"""Where things are: the project that is worked in, and behind it what ships with Bakeoff.

A project is a folder with `bench/` (presets, floors, baselines, published tables), `methods/`, `reports/` and
`.bakeoff/`. A pytest session's project is its rootdir; the command line tool's is the working directory, or its nearest
parent with a `bench/`. What a project lacks is found among what ships, by name; nothing is ever written there.
"""

from pathlib import Path

from bakeoff import shipped
from bakeoff.core.errors import UsageError

_root: Path | None = None


def use(root: Path) -> None:
    """Makes `root` this process's project. A command, a session and a worker say it once, before they look anything up.

    A forkserver's process is told by the process that asks for it (`session/worker.py`).
    """
    global _root
    _root = root.resolve()


def root() -> Path:
    """The project's folder: what `use` said, else what the command line tool would find."""
    return _root or around()


def around(folder: Path | None = None) -> Path:
    """A folder (the working directory where none is given), or its nearest parent with a `bench/` if one has it.

    Raises UsageError where the working directory is gone.
    """
    try:
        folder = (folder or Path.cwd()).resolve()
    except FileNotFoundError:
        raise UsageError("the working directory was deleted; change to a folder that exists") from None
    return next((one for one in (folder, *folder.parents) if (one / "bench").is_dir()), folder)


def own(*parts: str) -> Path:
    """A place in the project, whether or not something is there: `own("bench", "baselines", "ci.json")`."""
    return root().joinpath(*parts)


def places(*parts: str) -> list[Path]:
    """Where to look for a file or folder: in the project, then among what ships; once where they are the same."""
    return [base.joinpath(*parts) for base in dict.fromkeys((root(), shipped.ROOT))]


def find(*parts: str) -> Path | None:
    """A file of the project, else the one that ships under the same name; None where neither is there."""
    return next((path for path in places(*parts) if path.is_file()), None)


def ships(path: str | Path) -> bool:
    """Whether a file is among what ships, and not the project's own."""
    path, home = Path(path).resolve(), root()
    inside = home.is_relative_to(shipped.ROOT) and path.is_relative_to(home)  # Bakeoff's checkout, or a folder in it
    return path.is_relative_to(shipped.ROOT) and not inside
