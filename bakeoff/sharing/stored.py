"""Finished runs by fingerprint, as commands name them."""

from dataclasses import dataclass
from pathlib import Path

from bakeoff.core.errors import UsageError
from bakeoff.runs.records import RunResult
from bakeoff.session.store import SCHEMA, foreign_schema, intact, matching, read_result


@dataclass(frozen=True)
class Stored:
    """A finished run that trained something."""

    folder: Path
    result: RunResult

    @property
    def name(self) -> str:
        """The method's name."""
        return str(self.result.spec["method"])

    @property
    def adapter(self) -> Path:
        """The folder of what it trained."""
        return self.folder / "adapter"

    @property
    def peft(self) -> bool:
        """Whether PEFT loads that folder."""
        return (self.adapter / "adapter_config.json").is_file()


def find(command: str, name: str, store: Path) -> Stored:
    """The run that a fingerprint, its first digits or a folder names. Raises UsageError, also for a control."""
    path = Path(name)
    found = [path] if (path / "result.json").is_file() else matching(name, store)
    if len(found) != 1:
        kind = "several runs" if found else f"no run in {store}"
        raise UsageError(
            f"{command} {name!r}: {kind}; give a fingerprint as reports/PRESET/results.json lists them, or type --store"
        )
    [folder] = found
    if (schema := foreign_schema(folder)) is not None:
        raise UsageError(
            f"{command} {name!r}: {folder} was stored with schema {str(schema)[:20]!r}, this Bakeoff reads schema "
            f"{SCHEMA}; make the run again"
        )
    if not intact(folder):
        raise UsageError(f"{command} {name!r}: a file in {folder} is not what was stored; make the run again")
    run = Stored(folder, read_result(folder / "result.json"))
    if run.result.spec["control"]:
        raise UsageError(f"{command} {name!r}: {run.name} is a control, which trains nothing; give a method's run")
    return run
