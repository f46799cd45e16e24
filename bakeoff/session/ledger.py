"""What came of each run in this session, shared by the processes of one `pytest -n N`."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """How a run ended in this session."""

    how: Literal["made", "reused", "dead"]
    phase: str = ""
    """Of a death."""
    cause: str = ""
    """Of a death."""
    stack: str = ""
    """Of a run that took too long."""


class Ledger:
    """Outcomes by fingerprint, one file each: a worker neither repeats a death nor makes a `--fresh` run again."""

    def __init__(self, folder: str = "") -> None:
        """`folder` is another process's ledger; without it one is begun, which ends with this object."""
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="bakeoff-", ignore_cleanup_errors=True)
        self.folder = Path(folder or self._own.name)  # type: ignore[union-attr]

    def find(self, fingerprint: str) -> Outcome | None:
        """What came of the run, None where nobody made it yet."""
        try:
            return Outcome(**json.loads((self.folder / fingerprint).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def note(self, fingerprint: str, outcome: Outcome) -> None:
        """Writes down what came of the run."""
        temporary = self.folder / f".{fingerprint}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        os.replace(temporary, self.folder / fingerprint)

    def count(self, how: str) -> int:
        """How many runs ended so."""
        found = [self.find(path.name) for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sum(outcome is not None and outcome.how == how for outcome in found)
