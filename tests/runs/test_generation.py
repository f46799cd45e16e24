"""Greedy decoding in batches."""

import contextlib
import dataclasses
import json

import pytest
import torch
from computing import summarise, writing
from transformers import GenerationConfig

from bakeoff import engine
from bakeoff.config.schema import GenerationSettings, TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoder
from bakeoff.engine import decoding
from bakeoff.engine.cpu import engine as cpu
from bakeoff.engine.cpu import layers
from bakeoff.engine.padded import pad_left
from bakeoff.engine.plain import unwritable
from bakeoff.methods.selection import select
from bakeoff.models import loading
from bakeoff.runs.generation import schedule

METHODS = {entry.name: entry for entry in select(["all"])}


@pytest.fixture
def prompts(tiny, task):
    _, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings(max_input_tokens=96))
    return [encoder.prompt(example)[0] for example in task.examples.train]


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "zero-shot"])
def test_the_batch_changes_no_text_in_fp32(tiny, prompts, fp32, name):
    model, tokenizer = tiny()
    torch.manual_seed(0)
    model = METHODS[name].kind().attach(model, tokenizer)
    written = [
        summarise(model, tokenizer, prompts, 12, GenerationSettings(batch_size=size), fp32)[0] for size in (1, 3, 8)
    ]
    assert written[0] == written[1] == written[2]
    assert sorted(written[0]) == list(range(len(prompts)))


def test_decoding_is_the_argmax_of_each_step(tiny, prompts, fp32):
    model, tokenizer = tiny()
    texts, count = summarise(model, tokenizer, prompts[:1], 6, GenerationSettings(), fp32)
    ids = list(prompts[0])
    for _ in range(6):
        ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    assert texts[0] == tokenizer.decode(ids[len(prompts[0]) :], skip_special_tokens=True).strip()
    assert count == 6


def test_a_summary_stops_at_the_end_token(tiny, prompts, fp32):
    model, tokenizer = tiny()
    end = tokenizer.eos_token_id
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(end), 257).float())
    texts, count = summarise(model, tokenizer, prompts[:3], 10, GenerationSettings(), fp32)
    assert texts == {0: "", 1: "", 2: ""}
    assert count == 3


def test_summaries_that_the_limit_ends_are_told_from_those_that_the_model_ends(tiny, prompts, fp32):
    model, tokenizer = tiny()
    free, cut = GenerationSettings(batch_size=2), set()
    whole, _ = summarise(model, tokenizer, prompts[:4], 12, free, fp32)
    made = engine.make(fp32, tokenizer.pad_token_id)
    with made.writing(model):
        rows = made.generate(model, prompts[:4], 12, rows=4, ends={tokenizer.eos_token_id}, vocabulary=range(257))
    third = rows[0][2]  # as an end token it ends some before the limit
    summarise(model, tokenizer, prompts[:4], 12, free, fp32, ends={third}, cut=cut)
    assert cut == {index for index, row in enumerate(rows) if not {third, tokenizer.eos_token_id} & set(row)}
    assert 0 not in cut and whole


def test_the_schedule_holds_each_prompt_once_longest_first():
    prompts = [[0] * length for length in (3, 9, 1, 9, 5)]
    assert schedule(prompts, 2) == [[1, 3], [4, 0], [2]]


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("at_once", [40, 4000])
def test_prompts_wait_for_a_fourth_of_the_rows_and_fill_them_all(tiny, prompts, fp32, monkeypatch, rows, at_once):
    model, _ = tiny()
    monkeypatch.setattr(decoding, "PREFILL", at_once)
    events, ends, prefill, forward = [], iter(range(10**6)), decoding.prefill, decoding.forward

    # Every third token ends a summary, whatever the model says: rows get free at different steps.
    def pick(logits):
        return [7 if next(ends) % 3 else 9 for _ in logits]

    def read(model, some, cache, places, machine):
        events.append(("read", cache.rows - places[0], len(some)))
        return prefill(model, some, cache, places, machine)

    def step(model, segments, lengths, *given, **inputs):
        events.append(("step", len(lengths), 0))
        return forward(model, segments, lengths, *given, **inputs)

    monkeypatch.setattr(decoding, "prefill", read)
    monkeypatch.setattr(decoding, "forward", step)
    texts = decoding.decode(model, prompts * 4, 20, rows, {9}, pick, fp32)
    assert all(text[-1] == 9 and 9 not in text[:-1] for text in texts)
    waiting, before = len(texts), "step"
    for what, number, taken in events:
        if what == "read" and before == "step":
            assert number >= min(waiting, rows // 4)
        if what == "step" and before == "read":
            assert number == rows or not waiting  # prompts that are read in parts leave no row free
        waiting, before = waiting - taken, what
    assert waiting == 0 and max(taken for *_, taken in events) <= (rows if at_once > 40 else 1)


def test_padding_stands_on_the_left_and_is_masked():
    ids, mask = pad_left([[1, 2, 3], [4]], pad=9, device="cpu")
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_weights_are_made_ready_once_for_texts_that_are_written_one_after_another(tiny, fp32, monkeypatch):
    ready, (model, _) = [], tiny()
    monkeypatch.setattr(cpu, "in_precision", lambda *asked: contextlib.nullcontext(ready.append(asked)))
    for _ in range(2):
        with writing(model, fp32), writing(model, fp32):
            pass
    assert len(ready) == 2


def test_a_model_that_was_training_is_decoded_as_one_that_was_not(tiny, fp32):
    """A resumed run comes here from its training, another from a validation."""
    found = []
    for training in (True, False):
        model, tokenizer = tiny()
        model = METHODS["lora"].kind(dropout=0.5).attach(model, tokenizer)
        layers.install(model)
        with writing(model.train(training), fp32):
            found.append([layers.DECODING_WEIGHTS in vars(module) for module in model.modules()])
            assert not any(module.training for module in model.modules())
    assert found[0] == found[1] and any(found[0])


@pytest.mark.parametrize("packing", [True, False])
def test_a_summary_ends_at_any_of_its_end_tokens(tiny, prompts, fp32, packing):
    model, tokenizer = tiny()
    machine = dataclasses.replace(fp32, packing=packing)
    whole, _ = summarise(model, tokenizer, prompts, 12, GenerationSettings(), machine)
    second = tokenizer(whole[0], add_special_tokens=False).input_ids[1]
    texts, _ = summarise(model, tokenizer, prompts, 12, GenerationSettings(), machine, ends=(second,))
    expected = tokenizer.decode([second])
    assert texts[0] == whole[0].partition(expected)[0].strip() and texts[0] != whole[0]


@pytest.mark.parametrize("packing", [True, False])
def test_settings_that_a_models_files_bring_along_change_no_text(tiny, prompts, fp32, packing):
    found = []
    for brought in ({}, {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 12,
                         "suppress_tokens": list(range(200))}):  # fmt: skip
        model, tokenizer = tiny()
        model.generation_config = GenerationConfig(**brought)
        machine = dataclasses.replace(fp32, packing=packing)
        found.append(summarise(model, tokenizer, prompts, 12, GenerationSettings(), machine)[0])
    assert found[0] == found[1]


@pytest.mark.parametrize("packing", [True, False])
def test_a_row_of_a_padded_vocabulary_is_never_written(tiny, prompts, fp32, packing):
    model, tokenizer = tiny()
    model.resize_token_embeddings(320)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.arange(320).float() * 100)  # the last row would always win
    machine = dataclasses.replace(fp32, packing=packing)
    assert unwritable(model, set(tokenizer.get_vocab().values())).tolist() == list(range(257, 320))
    texts, count = summarise(model, tokenizer, prompts, 5, GenerationSettings(), machine)
    assert set(texts.values()) == {""} and count == len(prompts)  # of those that are left, the end token wins


@pytest.mark.parametrize(
    ("told", "found"), [(None, ()), ({}, ()), ({"eos_token_id": 5}, (5,)), ({"eos_token_id": [5, 7]}, (5, 7))]
)
def test_end_tokens_are_those_of_the_models_generation_config(tmp_path, told, found):
    if told is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(told))
    assert loading.end_tokens(tmp_path) == found


@pytest.mark.parametrize("told", ['{"eos_token_id": "x"}', '{"eos_token_id": [1, -2]}', "[1]", "{"])
def test_an_end_token_that_is_none_is_refused_with_its_file(tmp_path, told):
    (tmp_path / "generation_config.json").write_text(told)
    with pytest.raises(UsageError, match=r"generation_config\.json"):
        loading.end_tokens(tmp_path)
