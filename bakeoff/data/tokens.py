"""Texts that stand one after another as the token ids of the whole; foreign text never becomes an added token."""

import json
import re
import secrets
from itertools import pairwise
from typing import Any


class Foreign(str):
    """Text of a document or a summary: whatever it holds, it is plain text. Other pieces may name added tokens."""


class Tokens:
    """What a tokenizer makes of texts. Added tokens are those that it finds before it reads words, special or not."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        contents = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
        # A tokenizer may list runs of spaces or newlines: they are ordinary text, wherever they stand.
        self.added = {number: content for number, content in contents.items() if content.strip(" \t\r\n▁")}
        longest = sorted(self.added.values(), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        self._renamed: tuple[Any, dict[str, str], dict[int, int]] | None = None
        self.unknown = self._unknown()

    def encode(self, *pieces: str) -> list[int]:
        """The ids of all `pieces` as one text, without what a tokenizer puts around it."""
        text = "".join(pieces)
        if not text:
            return []
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
        ids = list(encoded.input_ids)
        if self.added.keys().isdisjoint(ids) or not self._forged(pieces, ids, encoded):
            return ids
        return self._plainly(pieces)

    def following(self, context: str, *pieces: str) -> list[int]:
        """The ids of `pieces` where they stand behind `context`.

        Where the tokenizer doesn't split between the two, they are read behind a letter or a newline.
        """
        text = "".join(pieces)
        if not text:
            return []
        anchors = ("\n", "a") if text[0].isalnum() else ("a", "\n")
        for anchor in (context, *anchors):
            before, all_ids = self.encode(anchor), self.encode(anchor, *pieces)
            if before and all_ids[: len(before)] == before:
                return all_ids[len(before) :]
        return self.encode(*pieces)

    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text, as its start and its end token."""
        probe = next((word for word in ("a", "1", ".", "a b") if self.encode(word)), "")
        inner, ids = self.encode(probe), list(self.tokenizer(probe).input_ids)
        for at in range(len(ids) - len(inner) + 1):
            if ids[at : at + len(inner)] == inner:
                return ids[:at], ids[at + len(inner) :]
        return [], []

    def joins_spaces(self) -> bool:
        """Whether a word may be one token with the space before it."""
        return any(re.match(r"[ Ġ▁]\w", str(token)) for token in self.tokenizer.get_vocab())

    def says_nothing(self, ids: list[int]) -> bool:
        """Whether the ids of a text hold nothing of it: none at all, or none but the unknown token and silent ones."""
        known = [number for number in ids if number not in self.unknown]
        return not known or not self.tokenizer.decode(known, skip_special_tokens=True).strip()

    def _unknown(self) -> set[int]:
        """The token that stands for what a vocabulary lacks, where its model writes one."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        model = getattr(backend, "model", None)
        if model is None or type(model).__name__ == "Unigram":
            found = self.tokenizer.unk_token_id
        else:
            name = getattr(model, "unk_token", None)
            found = backend.token_to_id(name) if name else None  # type: ignore[union-attr]
        return set() if found is None else {found}

    def _forged(self, pieces: tuple[str, ...], ids: list[int], encoded: Any) -> bool:
        """Whether an added token stands for foreign text, or for text on both sides of a border of it."""
        text, foreign, at = "".join(pieces), [], 0
        for piece in pieces:
            if isinstance(piece, Foreign):
                foreign.append((at, at + len(piece)))
            at += len(piece)
        spans = [match.span() for match in self._added.finditer(text)]
        if encoded.encodings:  # what was found for certain, after the tokenizer's own changes to the text
            offsets = encoded.encodings[0].offsets
            spans += [offsets[n] for n, number in enumerate(ids) if number in self.added and number not in self.unknown]
        return any(low < end and start < high for low, high in spans for start, end in foreign)

    def _plainly(self, pieces: tuple[str, ...]) -> list[int]:
        """The ids where foreign text looks like an added token: all of these get names that no text holds."""
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            return self._apart(pieces)
        self._renamed = self._renamed or rename(self.tokenizer.backend_tokenizer, set(self.added.values()))
        backend, names, numbers = self._renamed
        parts, own = [], ""
        for piece in (*pieces, Foreign("")):
            if not isinstance(piece, Foreign):
                own += piece
                continue
            cuts = re.split(f"({self._added.pattern})", own)  # text, token, text, token, ..., text
            parts += [(part, names[part] if n % 2 else part) for n, part in enumerate(cuts)] + [(piece, str(piece))]
            own = ""
        ids = {backend.token_to_id(name) for name in names.values()}
        found = backend.encode("".join(name for _, name in parts), add_special_tokens=False)
        spans = [span for number, span in zip(found.ids, found.offsets, strict=True) if number in ids]
        text, at = "", 0
        for part, name in parts:  # not every tokenizer finds a token that it lists wherever it stands
            end = at + len(name)
            text += name if part == name or any(low <= at and end <= high for low, high in spans) else part
            at = end
        found = backend.encode(text, add_special_tokens=False)
        return [numbers.get(number, number) for number in found.ids]

    def _apart(self, pieces: tuple[str, ...]) -> list[int]:
        """The same for a tokenizer written in Python: piece by piece, added tokens of foreign text broken in two."""
        ids: list[int] = []
        for piece in pieces:
            parts = [str(piece)]
            if isinstance(piece, Foreign):
                cuts = [0, *(match.start() + 1 for match in self._added.finditer(piece)), len(piece)]
                parts = [piece[start:end] for start, end in pairwise(cuts)]
            for part in filter(None, parts):
                foreign = isinstance(piece, Foreign)
                ids += self.tokenizer(part, add_special_tokens=False, split_special_tokens=foreign).input_ids
        return ids


def rename(backend: Any, contents: set[str]) -> tuple[Any, dict[str, str], dict[int, int]]:
    """A copy of a tokenizer in which added tokens have secret names; the names; ids of the copy that are others here.

    The vocabulary of words loses them, too: it could otherwise put them together from plain text.
    """
    from tokenizers import Tokenizer

    secret = secrets.token_hex(8)
    names = {content: f"\U00010380{secret}x{n}\U00010381" for n, content in enumerate(sorted(contents))}
    data = json.loads(backend.to_str())
    data.update(post_processor=None, truncation=None, padding=None)
    for token in data["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = data["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(word, word): number for word, number in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[names.get(word, word), *rest] for word, *rest in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if contents.isdisjoint((*pair, "".join(pair)))]
    copy = Tokenizer.from_str(json.dumps(data))
    numbers: dict[int, int] = {}
    for content, name in names.items():
        copied, number = copy.token_to_id(name), backend.token_to_id(content)
        if copied is not None and number is not None and copied != number:
            numbers[copied] = number
    return copy, names, numbers
