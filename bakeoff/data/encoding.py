"""Text to token ids with labels, and token ids to batches."""

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.core.writing import unspaced
from bakeoff.data.chat import Chat
from bakeoff.data.tasks import Example, Task
from bakeoff.data.tokens import Foreign, Tokens

CHECKED = 20
"""Documents of each split that are looked at before the first run."""
MUCH = 0.1
"""Share of unknown tokens above which a bake-off says so."""


@dataclass(frozen=True)
class Encoded:
    """Prompt and summary as one sequence: ids[:prompt] is the prompt, ids[prompt:] is labelled."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt, separator included."""
    document_cut: bool = False
    """Whether the document was truncated."""
    summary_cut: bool = False
    """Whether the summary was truncated."""


@dataclass(frozen=True)
class Frame:
    """The words around a document, and around its summary."""

    head: str
    tail: str
    """Up to the place where the summary is written."""
    head_tokens: int
    tail_ids: list[int]
    """Of `tail` behind a document that was cut."""
    lead: str | None
    """Between `tail` and a summary; None: a space where it takes one."""
    closing: list[int]
    """Labels after the summary; the last is an end token."""


class Encoder:
    """Encodes the examples of one task for one tokenizer.

    The ids of prompt and summary are those of the whole text. Text from a document or a summary never becomes an added
    token; text from the prompt template may.
    """

    def __init__(
        self, tokenizer: Any, task: Task, settings: TaskSettings, ends: Collection[int] = (), template: str = ""
    ) -> None:
        """`ends`: further tokens at which a model's text ends. `template`, plain or chat, wins over the settings'."""
        self.tokenizer = tokenizer
        self.task = task
        self.template = template or settings.template
        self.needs_template = settings.template == "chat"
        self.thinking = settings.thinking
        self.max_input = settings.max_input_tokens
        self.max_target = settings.max_target_tokens
        self.ends = {tokenizer.eos_token_id, *ends}
        self.tokens = Tokens(tokenizer)
        self._frames: dict[tuple[str, str], Frame] = {}

    def example(self, example: Example) -> Encoded:
        """Prompt, separator, summary and end token, for training; the same prompt as `asked`."""
        prompt, document_cut = self.asked(example)
        frame = self._frame(example, self._kind)
        lead = frame.lead
        if lead is None:
            lead = separator(frame.tail or example.document, example.summary)
        summary = self.tokens.following(frame.tail, lead, Foreign(example.summary))
        room = max(0, self.max_target - len(frame.closing))
        return Encoded([*prompt, *summary[:room], *frame.closing], len(prompt), document_cut, len(summary) > room)

    def asked(self, example: Example) -> tuple[list[int], bool]:
        """The prompt of the template that was chosen, plain or chat, and whether the document was cut."""
        return self.chat(example) if self.template == "chat" else self.prompt(example)

    def prompt(self, example: Example) -> tuple[list[int], bool]:
        """Token ids of the plain prompt, and whether the document was truncated to fit."""
        return self._fit(self._frame(example, "plain"), example.document, self.max_input - len(self.start))

    def chat(self, example: Example) -> tuple[list[int], bool]:
        """The instruction as the user's turn of the model's chat template; the plain prompt where there is none."""
        if not self.tokenizer.chat_template:
            return self.prompt(example)
        frame = self._frame(example, "chat")
        document = self._chat.document(example.document, *_around(self.task.instruction, example.aspect))
        # The template's own words don't count against the document's place: both prompts show the model as much of it.
        return self._fit(frame, document, frame.head_tokens + len(frame.tail_ids) + self.max_input)

    def check(self) -> list[str]:
        """What must be said of the texts of this task. Raises UsageError where no run should begin.

        Looks at the first documents of each split alone.
        """
        notes = []
        splits = (self.task.examples.train, self.task.examples.validation, self.task.examples.test)
        some = [example for split in splits for example in itertools.islice(split, CHECKED)]
        for part in ("document", "summary"):
            found = [self.tokens.encode(Foreign(getattr(example, part))) for example in some]
            if all(map(self.tokens.says_nothing, found)):
                raise UsageError(
                    f"its tokenizer leaves nothing of any {part} of {self.task.name}: all is unknown or silent; "
                    "take the tokenizer that belongs to the model, or a model that knows this script"
                )
            ids = list(itertools.chain(*found))
            unknown = sum(number in self.tokens.unknown for number in ids) / len(ids)
            if unknown > MUCH:
                notes.append(f"{unknown:.0%} of the tokens of a {part} are unknown to the model's tokenizer")
        if self.needs_template and not self.tokenizer.chat_template:
            raise UsageError("its tokenizer has no chat template; type --set task.template=plain")
        words = max(frame.head_tokens + len(frame.tail_ids) for frame in (self._frame(e, "plain") for e in some))
        if self._kind == "plain" and len(self.start) + words >= self.max_input:
            notes.append(
                f"task.prompt takes {len(self.start) + words} tokens of task.max_input_tokens = {self.max_input}: "
                "every document is cut to one token"
            )
        if self._kind == "chat":
            for example in some:
                self._chat.check(example.document, *_around(self.task.instruction, example.aspect))
            notes += filter(None, [self._chat.note()])
        return notes

    def sha256(self) -> str:
        """Of the prompts of the first document, plain and, where this encoder asks so, through the chat template."""
        first = self.task.examples.test[0]
        prompts = [self.prompt(first)[0], self.example(first).ids]
        return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()

    def longest(self) -> int:
        """Tokens of the longest prompt of the task."""
        splits = (self.task.examples.train, self.task.examples.validation, self.task.examples.test)
        return max(len(self.asked(example)[0]) for split in splits for example in split)

    @cached_property
    def start(self) -> list[int]:
        """What stands before every prompt: the tokenizer's prefix, else a start token that only its template writes."""
        start, _ = self.tokens.around()
        bos = self.tokenizer.bos_token_id
        if start or bos is None or not self.tokenizer.chat_template:
            return start
        try:
            around = self._chat.around(*_around(self.task.instruction, ""))
        except UsageError:  # said where the template is wanted
            return []
        ids = self.tokens.encode(around.before, "x", around.after)
        # Where it opens every turn, as in ChatML, it is no start token.
        at = ids.index(bos) if ids.count(bos) == 1 else len(ids)
        return ids[: at + 1] if at < len(ids) and self.tokens.added.keys() >= set(ids[:at]) else []

    @cached_property
    def _chat(self) -> Chat:
        return Chat(self.tokenizer, self.thinking)

    @property
    def _kind(self) -> str:
        return "chat" if self.template == "chat" and self.tokenizer.chat_template else "plain"

    def _frame(self, example: Example, kind: str) -> Frame:
        """The words around a document of the aspect of `example`, in a plain or a chat prompt."""
        key = (example.aspect, kind)
        if key not in self._frames:
            lead, end = None, ""
            if kind == "chat":
                around = self._chat.around(*_around(self.task.instruction, example.aspect))
                head, tail, lead, end = around.before, around.after, around.lead, around.end
                if lead is None and tail.endswith(tuple(self.tokens.added.values())):
                    lead = ""
            else:
                head, tail = _around(self.task.prompt, example.aspect)
                if tail.endswith(" ") and self.tokens.joins_spaces():  # it is part of the first word's token
                    tail, lead = tail.rstrip(" "), tail[len(tail.rstrip(" ")) :]
            closing = self.tokens.following("", end)
            at = next((index for index, number in enumerate(closing) if number in self.ends), None)
            self._frames[key] = Frame(
                head,
                tail,
                len(self.tokens.encode(head)),
                self.tokens.following("", tail),
                lead,
                [self.tokenizer.eos_token_id] if at is None else closing[: at + 1],
            )
        return self._frames[key]

    def _fit(self, frame: Frame, document: str, limit: int) -> tuple[list[int], bool]:
        """The prompt, its document cut to `limit` tokens in all, at least one of them the document's."""
        ids, cut = self.tokens.encode(frame.head, Foreign(document), frame.tail), False
        if len(ids) > limit:
            tail = frame.tail_ids
            body = ids[: -len(tail)] if tail else ids
            if ids[len(body) :] != tail:
                body = self.tokens.encode(frame.head, Foreign(document))
            room = max(frame.head_tokens + 1, limit - len(tail))
            ids, cut = [*body[:room], *tail], len(body) > room
        return self._started(ids) or [self.tokenizer.eos_token_id], cut

    def every_token(self, ids: Sequence[int]) -> Encoded:
        """A sequence of which every token is labelled but the start, or the first where there is none."""
        return Encoded(list(ids), max(1, len(self.start)))

    def text(self, text: str, limit: int) -> Encoded:
        """`text` without a prompt around it, at most `limit` tokens, every one labelled."""
        return self.every_token([*self.start, *self.tokens.encode(Foreign(text))][:limit])

    def _started(self, ids: list[int]) -> list[int]:
        """`ids` behind the whole start, whatever of it a template has written."""
        at = 0
        for number in self.start:
            at += ids[at : at + 1] == [number]
        return [*self.start, *ids[at:]]


def template_of(method: Any, settings: TaskSettings) -> str:
    """plain or chat: how `method` is asked. Its own `prompt` wins over the task's."""
    return str(getattr(method, "prompt", "") or settings.template)


def _around(template: str, aspect: str) -> tuple[str, str]:
    """The words before and after the document."""
    head, _, tail = template.partition("{document}")
    return head.replace("{aspect}", aspect), tail.replace("{aspect}", aspect)


def separator(before: str, summary: str) -> str:
    """A space where one is written between the text `before` and a summary, else nothing.

    None follows a space, a newline or a full-width mark, and none stands beside a letter of a script without spaces.
    """
    last, first = before[-1:], next(filter(str.isalpha, summary), "")
    if not last or last.isspace() or unspaced(last) or (first and unspaced(first)):
        return ""
    return "" if unicodedata.east_asian_width(last) in "WFH" and not last.isalpha() else " "
