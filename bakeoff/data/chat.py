"""A model's chat template around a document: rendered once for a task, and refused where it would change a text."""

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bakeoff.core.errors import UsageError, first_line

DATE = datetime.datetime(2024, 7, 26)
"""Today, for every chat template that asks: a prompt must be the same tomorrow."""
SYSTEM = "You are a helpful assistant."
"""The system's turn, where a template insists on one."""
MARK = "QXdocumentXQ"
ANSWER = "QXanswerXQ"
HARD = "a \"b\"\n\n\\c {d} {{ e }} <f> & 'g' é 文  H\tI"
"""What a template must leave as it is: quotes, newlines, braces, runs of spaces, capitals."""
REMEDY = "type --set methods.zero-shot.prompt=plain (and task.template=plain), or mend the template"


@dataclass(frozen=True)
class Around:
    """What a chat template writes around a document, and what it writes around the answer."""

    before: str
    """From the start to the document."""
    after: str
    """From the document to the place where the model goes on."""
    lead: str | None
    """Between that place and the answer; None where the template writes an answer in another way than it asks."""
    end: str
    """What follows the answer, the end of the turn included; empty where the template can't be asked."""


class Chat:
    """The chat template of a tokenizer. Raises UsageError where no way of asking leaves a document as it is."""

    def __init__(self, tokenizer: Any, thinking: bool) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.template = one_template(tokenizer.chat_template)
        self._around: dict[tuple[str, str], Around] = {}
        self.system, self.parts = self._form()
        if self._shown(f"{MARK}{HARD}{MARK}") != HARD:
            raise UsageError(f"its chat template changes the text of a document, as by quoting it; {REMEDY}")
        self.stripped = self._edges()

    def around(self, head: str, tail: str) -> Around:
        """The words around a document that stands in the user's turn between `head` and `tail`. Raises UsageError."""
        if (head, tail) not in self._around:
            self._around[head, tail] = self._render_around(head, tail)
        return self._around[head, tail]

    def _render_around(self, head: str, tail: str) -> Around:
        asked = self._turns(f"{head}{MARK}{tail}")
        text = self._render(asked, ask=True)
        before, _, after = text.partition(MARK)
        # Spaces at the ends of a turn may go; nothing else.
        if text.count(MARK) != 1 or not (before.endswith(head.lstrip()) and after.startswith(tail.rstrip())):
            raise UsageError(f"its chat template changes the words of task.instruction; {REMEDY}")
        lead, end = None, ""
        with contextlib.suppress(Exception):  # a template that takes no answer: the tokenizer's end token ends it
            whole = self._render([*asked, self._turn("assistant", ANSWER)], ask=False)
            if whole.count(ANSWER) == 1:
                start, _, end = whole.partition(ANSWER)
                lead = start[len(text) :] if start.startswith(text) else None
        return Around(before, after, lead, end)

    def document(self, text: str, head: str, tail: str) -> str:
        """`text` as the template shows it between `head` and `tail`: some cut spaces off the ends of a turn."""
        if not self.stripped:
            return text
        text = text if head.strip() else text.lstrip()
        return text if tail.strip() else text.rstrip()

    def check(self, document: str, head: str, tail: str) -> None:
        """Raises UsageError where `document` is not rendered as what stands around every document says."""
        around = self.around(head, tail)
        told = f"{around.before}{self.document(document, head, tail)}{around.after}"
        if self._render(self._turns(f"{head}{document}{tail}"), ask=True) != told:
            raise UsageError(f"its chat template changes a document that begins {document[:40]!r}; {REMEDY}")

    def note(self) -> str:
        """What must be said of thinking; empty where the template has no switch for it and begins no thought."""
        asked = self._turns(MARK)
        shown = self._render(asked, ask=True)
        self.thinking = not self.thinking
        try:
            other = self._render(asked, ask=True)
        finally:
            self.thinking = not self.thinking
        if other != shown:
            return f"chat template: thinking is {'on' if self.thinking else 'off'} (task.thinking)"
        if shown.rfind("<think>") > shown.rfind("</think>"):
            return "chat template: it begins a thought and has no switch for it; task.max_target_tokens is soon used up"
        return ""

    def _form(self) -> tuple[bool, bool]:
        """Whether the template wants a system's turn, and contents in parts: the first way that shows a document."""
        reasons: list[str] = []
        for system in (False, True):
            for parts in (False, True):
                self.system, self.parts = system, parts
                try:
                    count = self._render(self._turns(MARK), ask=True).count(MARK)
                    if count == 1:
                        return system, parts
                    found = (
                        "leaves the document out or changes it" if not count else f"writes the document {count} times"
                    )
                except Exception as error:  # jinja's own, a template's own, or whatever a foreign template runs into
                    line = getattr(error, "lineno", None)
                    found = f"can't be rendered ({f'line {line}: ' if line else ''}{first_line(error)})"
                reasons.append(found)
        why, with_system = reasons[0], reasons[2]
        more = "" if with_system == why else f", and with a system's turn {with_system}"
        raise UsageError(f"its chat template {why}{more}; {REMEDY}")

    def _edges(self) -> bool:
        """Whether the template cuts spaces off the ends of a text. Raises UsageError where it does so by halves."""
        shown = self._render(self._turns(f" \n{MARK}\n "), ask=True)
        before, _, after = self._render(self._turns(MARK), ask=True).partition(MARK)
        for stripped, text in ((False, f" \n{MARK}\n "), (True, MARK)):
            if shown == before + text + after:
                return stripped
        raise UsageError(f"its chat template changes the spaces around a document; {REMEDY}")

    def _shown(self, text: str) -> str:
        """What stands between the two marks of `text` once it is rendered."""
        parts = self._render(self._turns(text), ask=True).split(MARK)
        return parts[1] if len(parts) == 3 else ""

    def _turns(self, text: str) -> list[dict[str, Any]]:
        return [*([self._turn("system", SYSTEM)] if self.system else []), self._turn("user", text)]

    def _turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self.parts else text}

    def _render(self, turns: list[dict[str, Any]], *, ask: bool) -> str:
        with fixed_date():
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=ask,
                    enable_thinking=self.thinking,
                    thinking=self.thinking,
                    date_string=DATE.strftime("%d %b %Y"),
                )
            )


def one_template(found: Any) -> str:
    """The template of a tokenizer that may have several by name. Raises UsageError where none is the usual one."""
    templates = found if isinstance(found, dict) else {"default": found}
    if len(templates) == 1:
        return str(next(iter(templates.values())))
    if "default" not in templates:
        raise UsageError(f"its chat templates are {', '.join(sorted(templates))}, and none is 'default'; {REMEDY}")
    return str(templates["default"])


@contextlib.contextmanager
def fixed_date() -> Iterator[None]:
    """Makes DATE the day for `strftime_now` of chat templates."""
    from transformers.utils import chat_template_utils as library

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Fixed":
            return cls(DATE.year, DATE.month, DATE.day, tzinfo=tz)

    before = library.datetime
    library.datetime = Fixed  # type: ignore[misc]
    try:
        yield
    finally:
        library.datetime = before  # type: ignore[misc]
