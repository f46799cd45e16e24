"""What can go wrong that is not a bug, each as one line that names the offender, what was expected and what to type."""

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable

LONGEST = 1200
"""Characters of a message; of a longer one the ends are kept: who is to blame, and what to type."""
KEPT = "\u200c\u200d"
"""Joiners change how Persian or Hindi words are written and move nothing, so they stay."""


class UsageError(Exception):
    """Something the user can mend: a setting, a file, a name, a missing package. Its text is the whole message.

    Whatever the offender holds, the text is one line that can be printed.
    """

    def __init__(self, text: str) -> None:
        shown = one_line(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}")
        super().__init__(shown)


def lacking(error: ModuleNotFoundError) -> UsageError:
    """What can be done where this Python has not what Bakeoff depends on. Raises `error` for a module of its own."""
    if (error.name or "bakeoff").split(".")[0] in ("bakeoff", "methods", "bench", "lab"):
        raise error
    return UsageError(
        f"{sys.executable} has no {error.name}, which Bakeoff needs; use the Python of the environment that Bakeoff is "
        "installed in, or, in its clone, type pip install -r requirements.txt"
    )


class Diverged(Exception):
    """Training reached a loss that is not a number; the run is dead, the bake-off goes on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of the known words, or lists them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5) if len(word) < 200 else []
    return f"did you mean {close[0]!r}?" if close else "known: " + (", ".join(names) or "none")


def first_line(error: BaseException) -> str:
    """Of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")


def one_line(text: str) -> str:
    """`text` on one line: line breaks, control and bidirectional characters as escapes (`\\n`, `\\x1b`, `\\u202e`).

    No workflow command of a CI host is left in it: `::` doesn't start it, `##[` doesn't occur.
    """
    shown = "".join(_visible(character) for character in text)
    shown = re.sub(r"##(?=\[)", "# #", shown)
    return re.sub(r"^(\s*):(?=:)", r"\1: ", shown)


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in KEPT
    return character.encode("unicode_escape").decode() if hidden else character
