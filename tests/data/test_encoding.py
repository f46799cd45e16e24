"""Text to ids, labels and batches."""

import dataclasses

import pytest
import torch

from bakeoff.config.schema import TaskSettings
from bakeoff.data.encoding import Encoder
from bakeoff.data.tasks import Example
from bakeoff.engine.batches import by_size, collate
from bakeoff.runs.training import windows


@pytest.fixture
def encoder(tiny, task):
    _, tokenizer = tiny()
    return Encoder(tokenizer, task, TaskSettings(max_input_tokens=40, max_target_tokens=10))


def text(encoder, ids):
    return encoder.tokenizer.decode(ids)


def test_a_sequence_is_prompt_separator_summary_end(encoder):
    encoded = encoder.example(Example("a", "Short.", "Gist."))
    assert text(encoder, encoded.ids[: encoded.prompt]) == "Short.\n\nSummary:"
    assert text(encoder, encoded.ids[encoded.prompt : -1]) == " Gist."
    assert encoded.ids[-1] == encoder.tokenizer.eos_token_id


def test_only_the_document_is_truncated(encoder):
    encoded = encoder.example(Example("a", "word " * 100, "Gist."))
    prompt = text(encoder, encoded.ids[: encoded.prompt])
    assert encoded.document_cut and encoded.prompt == 40
    assert prompt.startswith("word word") and prompt.endswith("\n\nSummary:")


def test_a_prompt_that_leaves_no_room_for_documents_is_said(tiny, task):
    [note] = Encoder(tiny()[1], task, TaskSettings(max_input_tokens=10)).check()
    assert note == "task.prompt takes 10 tokens of task.max_input_tokens = 10: every document is cut to one token"
    assert Encoder(tiny()[1], task, TaskSettings(max_input_tokens=11)).check() == []


def test_a_long_summary_is_cut_to_the_target_limit_and_still_ends(encoder):
    encoded = encoder.example(Example("a", "Short.", "gist " * 50))
    assert encoded.summary_cut
    assert len(encoded.ids) - encoded.prompt == 10
    assert encoded.ids[-1] == encoder.tokenizer.eos_token_id


def test_a_document_smuggles_no_special_token(encoder):
    end = encoder.tokenizer.eos_token_id
    for example in (Example("a", "<|end|> x <|end|>", "Gist."), Example("b", "x", "<|end|>")):
        encoded = encoder.example(example)
        assert encoded.ids.count(end) == 1 and encoded.ids[-1] == end


def test_the_prompt_template_may_name_special_tokens(tiny, task):
    _, tokenizer = tiny(special_tokens=("<|sep|>",))
    marked = dataclasses.replace(task, prompt="{document}<|sep|>")
    prompt, _ = Encoder(tokenizer, marked, TaskSettings()).prompt(Example("a", "x<|sep|>", "y"))
    assert prompt.count(tokenizer.convert_tokens_to_ids("<|sep|>")) == 1


def test_the_chat_template_surrounds_the_document(tiny, task):
    _, tokenizer = tiny()
    tokenizer.chat_template = "{% for m in messages %}<user>{{ m.content }}</user>{% endfor %}<assistant>"
    prompt, cut = Encoder(tokenizer, task, TaskSettings()).chat(Example("a", "A text.", "y"))
    assert tokenizer.decode(prompt) == "<user>Summarize.\n\nA text.</user><assistant>"
    assert not cut


def test_a_chat_shows_as_much_of_a_long_document_as_the_plain_prompt(encoder):
    encoder.tokenizer.chat_template = "{% for m in messages %}<user>{{ m.content }}</user>{% endfor %}<assistant>"
    example = Example("a", "abcdefghij" * 20, "y")
    shown = [text(encoder, ids).count("a") for ids in (encoder.prompt(example)[0], encoder.chat(example)[0])]
    assert shown[1] >= shown[0]


def test_the_end_token_is_labelled_though_it_is_the_padding_token(encoder):
    assert encoder.tokenizer.pad_token_id == encoder.tokenizer.eos_token_id
    examples = [encoder.example(Example("a", "Short.", "Gist.")), encoder.example(Example("b", "Longer text.", "G."))]
    batch = collate(examples, encoder.tokenizer.pad_token_id)
    assert (batch.labels == encoder.tokenizer.eos_token_id).sum() == len(examples)


def test_predicts_marks_the_position_before_each_label(encoder):
    examples = [encoder.example(Example("a", "Short.", "Gist.")), encoder.example(Example("b", "Longer text.", "G."))]
    batch = collate(examples, encoder.tokenizer.pad_token_id)
    following = torch.roll(batch.input_ids, -1, dims=1)
    assert torch.equal(following[batch.predicts], batch.labels)
    assert batch.predicts.sum().item() == sum(len(e.ids) - e.prompt for e in examples)
    assert not batch.predicts[:, -1].any()


def test_micro_batches_hold_each_sequence_of_the_window_once_by_length(encoded):
    parts = list(by_size(encoded, 3))
    lengths = [len(example.ids) for part in parts for example in part]
    assert [len(part) for part in parts] == [3, 3, 2]
    assert lengths == sorted(lengths) and len(lengths) == len(encoded)


def test_another_seed_is_another_order_of_the_same_documents():
    orders = [
        [place for window in windows(50, 8, torch.Generator().manual_seed(seed)) for place in window]
        for seed in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
