"""Writing systems: words, letters and sentences of a text in any script."""

import re
import unicodedata
from functools import lru_cache

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0xAA80, 0xAADF),  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    (0x1B00, 0x1B7F), (0xA980, 0xA9DF),  # Balinese, Javanese
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x303C),  # Han: radicals, iteration marks, numerals
    (0x3041, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF),  # Hiragana, Katakana, Bopomofo
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF),  # further kana and Han
)  # fmt: skip
"""Code points of the scripts that put no space between words, each range with both of its ends."""
JOINERS = "\u200c\u200d\u00ad\u2060\ufeff\u034f"
"""Invisible characters inside a word: they change how it is drawn or broken, not which word it is."""


def unspaced(character: str) -> bool:
    """Whether the script of `character` puts no space between words."""
    point = ord(character)
    return point >= UNSPACED[0][0] and any(low <= point <= high for low, high in UNSPACED)


def normal(text: str) -> str:
    """`text` in Unicode's compatibility form (NFKC), case-folded: equal for what a reader takes for the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=2**16)
def _kind(character: str) -> str:
    """`single`: a token of its own; `word`: part of a word; `mark`: kept with the letter before it; `none`; `gap`."""
    if character in JOINERS or 0xFE00 <= ord(character) <= 0xFE0F or 0xE0100 <= ord(character) <= 0xE01EF:
        return "none"  # variation selectors, too
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    if category[0] == "L" or category == "Nl":
        return "single" if unspaced(character) else "word"
    return "word" if category[0] == "N" else "gap"


def words(text: str) -> list[str]:
    """The tokens of `text`: runs of letters and digits of any script, each with its combining marks.

    In scripts without spaces between words (Han, kana, Thai, Lao, Khmer, Myanmar and their like) a token is one letter.
    """
    found: list[str] = []
    before = "gap"
    for character in normal(text):
        kind = _kind(character)
        if kind == "none" or (kind == "mark" and before == "gap"):
            continue
        if kind == "mark" or (kind == "word" and before == "word"):
            found[-1] += character
            continue
        if kind != "gap":
            found.append(character)
        before = kind
    return found


def letters(text: str) -> int:
    """Number of letters in Unicode's sense."""
    return sum(character.isalpha() for character in text)


# Sentences

CLOSING = (
    "\"'\u2019\u201d\u00bb\u203a)\\]}\u300d\u300f\u3011\u3009\u300b\u3015\uff09\uff3d\uff5d\uff02\uff07\ufe42\ufe44"
)
OPENING = "\"'\u2018\u201c\u201e\u00ab\u2039(\\[{\u00bf\u00a1"
PLAIN = ".!?\u2026\u203c\u2047\u2048\u2049"
"""Marks that end a sentence before a space and a capital; a full stop stands in numbers and abbreviations, too."""
SURE = (
    "\u3002\uff01\uff1f\uff0e\uff61\ufe52\ufe56\ufe57"  # CJK
    "\u0964\u0965\u061f\u06d4\u061e\u0589\u1362\u1367\u1368"  # danda, Arabic and Urdu, Armenian, Ethiopic
    "\u17d4\u17d5\u104b\u0f0d\u0f0e\u1803\u1809\ua92f\ua8ce\ua8cf\uabeb\u1c7e\u1c7f\u07f9"  # Khmer, Myanmar, Tibetan...
)
"""Marks that end a sentence wherever they stand, with a space after them or without."""
SPACE_ENDS = "\u0e00-\u0eff"
"""Thai and Lao have no mark at the end of a sentence: there a space between two of their letters stands for it."""

_ENDS = re.compile(
    rf"\n\s*|(?P<sure>[{SURE}])[{SURE}{PLAIN}{CLOSING}]*[^\S\n]*|[{PLAIN}]+[{CLOSING}]*(?P<gap>[^\S\n]*)"
    rf"|(?<=[{SPACE_ENDS}])[^\S\n]+(?=[{SPACE_ENDS}])"
)
_OPENINGS = re.compile(f"[{OPENING}]*")


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of running text in any script, stripped; at least one.

    A line end ends one; so does a mark that does nothing else in its script (。 । ؟ ։ ። ។ and their like), with what
    closes after it. A full stop, exclamation or question mark (. ! ?) does so before a space and a letter that is no
    small one, or a digit; between letters of a script without spaces it needs no space. In Thai and Lao, which
    have no such mark, a space between two letters ends one.
    """
    parts, start = [], 0
    for end in _ENDS.finditer(text):
        if _ends(text, end):
            parts.append(text[start : end.end()].strip())
            start = end.end()
    parts.append(text[start:].strip())
    return tuple(part for part in parts if part) or (text,)


def _ends(text: str, end: "re.Match[str]") -> bool:
    """Whether a sentence ends with `end`, which looks like it."""
    before, after = text[end.start() - 1 : end.start()], text[end.end() : end.end() + 1]
    if end["sure"]:
        return not (end["sure"] == "\uff0e" and before.isdigit() and after.isdigit())  # a number in full-width digits
    if end["gap"] is None:
        return True
    if not end["gap"]:
        return bool(before and after) and unspaced(before) and unspaced(after)
    first = _OPENINGS.match(text, end.end()).end()  # type: ignore[union-attr]
    after = text[first : first + 1]
    return after.isdigit() or (after.isalpha() and not _small(after))


def _small(letter: str) -> bool:
    """Whether a sentence of its script would not begin with `letter`. Georgian has capitals and doesn't use them so."""
    return letter.islower() and not "\u10d0" <= letter <= "\u10ff"


def join_sentences(sentences: "list[str] | tuple[str, ...]") -> str:
    """Sentences as running text: a space between them, but not after a full-width mark or a letter without spaces."""
    text = ""
    for sentence in sentences:
        last = text[-1:]
        wide = bool(last) and unicodedata.east_asian_width(last) in "WF"
        text += sentence if not text or wide else f" {sentence}"
    return text
