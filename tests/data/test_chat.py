"""Chat templates around a document: rendered right, or refused before the first run."""

import dataclasses
import datetime

import pytest
from transformers.utils import chat_template_utils

from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.chat import Chat
from bakeoff.data.encoding import Encoder
from bakeoff.data.tasks import Example

LOOP = "{% for m in messages %}<{{ m.role }}>WHAT</{{ m.role }}>{% endfor %}"
ASK = "{% if add_generation_prompt %}<assistant>{% endif %}"
PLAIN = LOOP.replace("WHAT", "{{ m.content }}") + ASK
SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + PLAIN
PARTS = LOOP.replace("WHAT", "{% for part in m.content %}{{ part.text }}{% endfor %}") + ASK
SWITCH = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
DATE = '{{ strftime_now("%d %b %Y") }} {{ date_string }} ' + PLAIN
EXAMPLE = Example("a", 'A "text" \\n\nof two lines.', "Gist")


@pytest.fixture
def encoder(tiny, task):
    def build(template, kind="chat", specials=(), **changes):
        _, tokenizer = tiny(special_tokens=specials)
        tokenizer.chat_template = template
        settings = TaskSettings(max_target_tokens=20, template=kind, **changes)
        return Encoder(tokenizer, task, settings)

    return build


def asked(encoder, example=EXAMPLE):
    return encoder.tokenizer.decode(encoder.chat(example)[0])


@pytest.mark.parametrize(
    "template, shown",
    [
        (PLAIN, "<user>{}</user><assistant>"),
        (PARTS, "<user>{}</user><assistant>"),
        (LOOP.replace("WHAT", "{{ m.content | trim }}") + ASK, "<user>{}</user><assistant>"),
        (SYSTEM, "<system>You are a helpful assistant.</system><user>{}</user><assistant>"),
        (SWITCH, "<user>{}</user><assistant><think></think>"),
        (DATE, "26 Jul 2024 26 Jul 2024 <user>{}</user><assistant>"),
        ({"only": PLAIN}, "<user>{}</user><assistant>"),
        ({"default": PLAIN, "tool_use": "x"}, "<user>{}</user><assistant>"),
    ],
)  # fmt: skip
def test_a_document_stands_in_its_place_of_a_template(encoder, template, shown):
    made = encoder(template)
    assert asked(made) == shown.format(f"Summarize.\n\n{EXAMPLE.document}")
    assert all(note.startswith("chat template: thinking is off") for note in made.check())


@pytest.mark.parametrize(
    "template, why",
    [
        (LOOP.replace("WHAT", "{{ m.content | tojson }}"), "changes the text of a document"),
        (LOOP.replace("WHAT", "{{ m.content | upper }}"), "leaves the document out"),
        (LOOP.replace("WHAT", "{{ m.content | escape }}"), "changes the text of a document"),
        (LOOP.replace("WHAT", "{{ m.content }}{{ m.content }}"), "writes the document 2 times"),
        (LOOP.replace("WHAT", "{{ m.content.replace('Summarize', 'Do') }}"), "changes the words of task.instruction"),
        (LOOP.replace("WHAT", "{{ m.content.replace('ipsum', 'x') }}"), "changes a document that begins '0 lorem"),
        (
            "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}<a>",
            "system first.*leaves",
        ),
        ("<user>", "leaves the document out"),
        ("{% for m in messages %}\n{{ m.content", "line 2"),
        ("{{ messages | nothing }}", "nothing"),
        ({"rag": PLAIN, "tool_use": PLAIN}, "are rag, tool_use, and none is 'default'"),
    ],
)
def test_a_template_that_can_not_be_used_is_refused_with_its_reason(encoder, template, why):
    with pytest.raises(UsageError, match=why) as refused:
        encoder(template).check()
    assert "\n" not in str(refused.value) and "--set methods.zero-shot.prompt=plain" in str(refused.value)


def test_a_method_that_needs_a_template_is_refused_where_there_is_none(encoder):
    with pytest.raises(UsageError, match=r"no chat template; type --set task\.template=plain"):
        encoder(None).check()


def test_zero_shot_writes_from_the_plain_prompt_where_there_is_no_template(tiny, task):
    made = Encoder(tiny()[1], task, TaskSettings(), template="chat")
    assert made.check() == [] and made.asked(EXAMPLE) == made.prompt(EXAMPLE)


def test_a_broken_template_is_no_matter_where_nobody_is_asked_through_it(encoder):
    made = encoder("{% for", kind="plain")
    assert made.check() == [] and made.example(EXAMPLE).ids[-1] == made.tokenizer.eos_token_id


def test_thinking_is_a_setting(encoder):
    assert asked(encoder(SWITCH, thinking=True)).endswith("<assistant>")
    assert encoder(SWITCH, thinking=True).check() == ["chat template: thinking is on (task.thinking)"]


def test_a_thought_that_no_switch_ends_is_said(encoder):
    assert encoder(PLAIN + "<think>").check()[0].startswith("chat template: it begins a thought")
    assert encoder("{# thinking #}" + PLAIN).check() == []


def test_the_day_changes_no_prompt_and_stays_as_it_was_elsewhere(encoder, monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert asked(encoder(DATE)).startswith("26 Jul 2024")
    assert chat_template_utils.datetime is Tomorrow


def test_spaces_at_the_ends_of_a_document_are_shown_as_the_template_shows_them(encoder):
    trimmed = encoder(LOOP.replace("WHAT", "{{ m.content | trim }}"))
    trimmed.task = dataclasses.replace(trimmed.task, instruction="Sum up: {document}")
    example = Example("a", " A text.\n", "Gist")
    assert asked(trimmed, example) == "<user>Sum up:  A text.</user>"
    trimmed._chat.check(example.document, "Sum up: ", "")


# Training through the template


TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}"
    "<|assistant|>LEAD{{ m.content }}AFTER{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<|user|>", "<|assistant|>", "<|turn|>")


@pytest.mark.parametrize(
    "lead, after, written",
    [
        ("", "<|end|>\n", "Gist<|end|>"),
        (" ", " <|end|>", " Gist <|end|>"),
        ("", "", "Gist<|end|>"),
        ("", "<|turn|>\n", "Gist<|end|>"),
        ("\n", "\n<|end|>\n<|end|>", "\nGist\n<|end|>"),
    ],
)
def test_the_summary_is_the_assistants_turn_up_to_the_first_end_token(encoder, lead, after, written):
    made = encoder(TURNS.replace("LEAD", lead).replace("AFTER", after), specials=SPECIALS)
    found = made.example(EXAMPLE)
    assert found.ids[: found.prompt] == made.chat(EXAMPLE)[0] == made.asked(EXAMPLE)[0]
    assert made.tokenizer.decode(found.ids[found.prompt :]) == written


def test_an_end_of_turn_among_the_models_end_tokens_is_the_label(encoder, task):
    made = encoder(TURNS.replace("LEAD", "").replace("AFTER", "<|turn|>\n"), specials=SPECIALS)
    turn = made.tokenizer.convert_tokens_to_ids("<|turn|>")
    found = Encoder(made.tokenizer, task, TaskSettings(template="chat"), ends=[turn]).example(EXAMPLE)
    assert made.tokenizer.decode(found.ids[found.prompt :]) == "Gist<|turn|>"


def test_training_through_a_template_gives_the_ids_that_transformers_gives(encoder):
    made = encoder(TURNS.replace("LEAD", "").replace("AFTER", "<|end|>"), specials=SPECIALS)
    turns = [{"role": "user", "content": f"Summarize.\n\n{EXAMPLE.document}"}, {"role": "assistant", "content": "Gist"}]
    whole = made.tokenizer.apply_chat_template(turns, return_dict=False)
    assert made.example(EXAMPLE).ids == whole


def test_a_long_summary_through_a_template_keeps_its_whole_end(encoder):
    made = encoder(TURNS.replace("LEAD", "").replace("AFTER", " <|end|>"), specials=SPECIALS)
    found = made.example(Example("a", "x", "gist " * 20))
    assert found.summary_cut and len(found.ids) - found.prompt == 20
    assert made.tokenizer.decode(found.ids[-2:]) == " <|end|>"


def test_a_template_that_takes_no_answer_ends_with_the_tokenizers_end_token(encoder):
    template = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    made = encoder(template)
    found = made.example(EXAMPLE)
    assert made.tokenizer.decode(found.ids[found.prompt :]) == " Gist<|end|>"
    assert Chat(made.tokenizer, False).around("", "").end == ""


@pytest.mark.parametrize(
    "other", [{"template": PLAIN + "."}, {"template": SWITCH, "thinking": True}, {"template": PLAIN, "kind": "plain"}]
)
def test_what_the_model_is_asked_is_part_of_the_fingerprint(encoder, other):
    base = encoder(SWITCH if other["template"] == SWITCH else PLAIN)
    assert base.sha256() == encoder(base.tokenizer.chat_template).sha256() != encoder(**other).sha256()
