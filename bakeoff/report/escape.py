"""Untrusted text made inert: for a terminal and a plot (`plain`), and for Markdown with HTML (`markdown`)."""

import re
import unicodedata

# Joiners change how Persian or Hindi words are written and move nothing, so they stay.
KEPT = "\u200c\u200d"

MARKUP = {character: "\\" + character for character in "\\`*_{}[]#~=^"}
MARKUP |= {"|": "&#124;", "<": "&lt;", ">": "&gt;", "&": "&amp;"}

# Lists, rules and definitions: they mean something only where a text starts.
START = re.compile(r"[-+:]|\d{1,9}[.)](?=\s|$)")

# What hosts turn into links, mentions, emoji or mathematics after Markdown is done. An element of its own keeps the
# character in a text node of its own, where nothing is recognised.
TRIGGER = re.compile(
    r"[@$]|#(?=\d)|:(?!\d\d\b)(?=//|[\w+-]+:)|(?<=mailto):|(?<=xmpp):|(?<=www)\.|(?<=\bGH)-(?=\d)", re.IGNORECASE
)

# An underscore inside a word is no emphasis.
INSIDE = re.compile(r"(?<=[^\W_])_(?=[^\W_])")


def plain(text: str) -> str:
    """`text` on one line: line breaks, control and bidirectional characters as escapes (`\\n`, `\\x1b`, `\\u202e`).

    No workflow command of a CI host is left in it: `::` doesn't start it, `##[` doesn't occur.
    """
    shown = "".join(_visible(character) for character in text)
    shown = re.sub(r"##(?=\[)", "# #", shown)
    return re.sub(r"^(\s*):(?=:)", r"\1: ", shown)


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in KEPT
    return character.encode("unicode_escape").decode() if hidden else character


def markdown(text: str) -> str:
    """`text` as Markdown that shows exactly `plain(text)`, without outer spaces, wherever it stands: in a paragraph,
    a list item, a heading or a table cell."""
    shown = plain(text).strip()
    held = {match.start() for match in TRIGGER.finditer(shown)}
    bare = {match.start() for match in INSIDE.finditer(shown)}
    start = START.match(shown)
    first = start.end() - 1 if start else -1

    def inert(place: int, character: str) -> str:
        if place in held:
            return f"<span>{character}</span>"
        if place == first:
            return "\\" + character
        return character if place in bare else MARKUP.get(character, character)

    return "".join(inert(place, character) for place, character in enumerate(shown))


def clip(text: str, limit: int) -> str:
    """The first `limit` characters of `text`, with its full length where something was left out."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} … ({len(text):,} characters)"
