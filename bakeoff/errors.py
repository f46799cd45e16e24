"""What can go wrong that is not a bug, each as one line that names the offender, what was expected and what to type."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something the user can mend: a setting, a file, a name, a missing package. Its text is the whole message."""


class Diverged(Exception):
    """Training reached a loss that is not a number; the run is dead, the bake-off goes on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the known words, or lists them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "known: " + (", ".join(names) or "none")
