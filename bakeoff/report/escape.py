"""Untrusted text made inert: for a terminal and a plot (`plain`), for Markdown with HTML (`markdown`), and for the
workflow commands of GitHub Actions (`workflow`)."""

import re

from bakeoff.core.errors import one_line as plain

__all__ = ["clip", "lines", "markdown", "plain", "workflow", "workflow_property"]

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


def lines(text: str) -> str:
    """`text` with its line breaks; control and bidirectional characters are shown as escapes, as `plain` does."""
    return "\n".join(line if line.isprintable() else plain(line) for line in text.splitlines())


def clip(text: str, limit: int) -> str:
    """The first `limit` characters of `text`, with its full length where something was left out."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} … ({len(text):,} characters)"


def workflow(text: str) -> str:
    """`text` as the message of a workflow command: `f"::error::{workflow(text)}"` is that one command, whatever it is.

    The runner turns `%25`, `%0D` and `%0A` back (docs.github.com, "Workflow commands for GitHub Actions").
    """
    return plain(text).replace("%", "%25")


def workflow_property(text: str) -> str:
    """`text` as the value of a command's property: `f"::error title={workflow_property(text)}::message"`."""
    return workflow(text).replace(":", "%3A").replace(",", "%2C")
