"""The smallest and the oddest inputs, through encoding, training, generation, scores and the report."""

import math

import pytest
import torch
from computing import fine_tune, mean_loss, summarise
from factories import predictions, run, settings

from bakeoff import report
from bakeoff.config.schema import GenerationSettings, TaskSettings, TrainingSettings
from bakeoff.data.encoding import Encoded, Encoder
from bakeoff.data.tasks import Example
from bakeoff.engine.batches import collate
from bakeoff.methods.selection import select
from bakeoff.metrics.rouge import SCORED, Scorer, rouge
from bakeoff.report.comparison import compare
from bakeoff.runs.generation import schedule
from bakeoff.runs.resources import Clock

METHODS = {entry.name: entry for entry in select(["all"])}
RECIPE = TrainingSettings(epochs=2, learning_rate=1e-2, batch_size=8, micro_batch_size=4)
TINY = {
    "a document of one token": Example("a", "x", "A summary."),
    "a summary longer than its document": Example("a", "x y", "a far longer summary " * 5),
    "a summary of one token": Example("a", "A document of some words.", "x"),
    "a document as its own summary": Example("a", "The same.", "The same."),
}


@pytest.fixture
def encode(tiny, task):
    encoder = Encoder(tiny()[1], task, TaskSettings(max_input_tokens=96, max_target_tokens=24))
    return lambda examples: [encoder.example(example) for example in examples]


def trained(model, train, validation, fp32, recipe=RECIPE):
    curves = fine_tune(model, train, validation, recipe, fp32, seed=1, pad=256, clock=Clock())
    assert all(math.isfinite(row["loss"]) for row in curves.steps)
    return curves


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_example_trains_and_is_summarised(tiny, encode, fp32, name):
    model, tokenizer = tiny()
    [encoded] = encode([TINY[name]])
    assert len(encoded.ids) - encoded.prompt <= 24 and encoded.ids[-1] == tokenizer.eos_token_id
    curves = trained(model, [encoded], [encoded], fp32)
    assert curves.epochs[-1]["validation_loss"] < curves.epochs[0]["validation_loss"]
    texts, written = summarise(model, tokenizer, [encoded.ids[: encoded.prompt]], 4, GenerationSettings(), fp32)
    assert list(texts) == [0] and 1 <= written <= 4


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_one_training_document_is_one_step_an_epoch(tiny, encode, task, fp32, name):
    model, tokenizer = tiny()
    model = METHODS[name].kind().attach(model, tokenizer)
    curves = trained(model, encode(task.examples.train[:1]), encode(task.examples.validation[:1]), fp32)
    assert [row["step"] for row in curves.steps] == [1, 2]
    assert curves.labels == 2 * (curves.labels // 2) > 0


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_no_epochs_leave_the_method_as_attached(tiny, encode, task, fp32, name):
    model, tokenizer = tiny()
    model = METHODS[name].kind().attach(model, tokenizer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    curves = trained(model, encode(task.examples.train), encode(task.examples.validation), fp32,
                     TrainingSettings(epochs=0))  # fmt: skip
    assert curves.steps == [] and len(curves.epochs) == 1 and curves.tokens == 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_batch_of_nothing_but_the_padding_token_has_a_loss(tiny, fp32):
    model, _ = tiny()
    examples = [Encoded([256] * length, 1) for length in (2, 5)]
    batch = collate(examples, 256)
    assert batch.input_ids.eq(256).all() and len(batch.labels) == batch.predicts.sum() == 5
    assert math.isfinite(mean_loss(model, examples, RECIPE, fp32, 256))


def test_a_document_without_any_token_is_asked_with_the_end_token_alone(tiny, task, fp32):
    model, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings())
    encoder.task = task.__class__("t", "{document}", "{document}", task.examples, "")
    assert encoder.prompt(Example("a", "", ""))[0] == [tokenizer.eos_token_id]
    encoded = encoder.example(Example("a", "", ""))
    assert encoded.ids == [tokenizer.eos_token_id] * 2 and encoded.prompt == 1
    assert math.isfinite(mean_loss(model, [encoded], RECIPE, fp32, 256))


def test_no_prompts_are_no_summaries(tiny, fp32):
    model, tokenizer = tiny()
    assert schedule([], 4) == []
    assert summarise(model, tokenizer, [], 4, GenerationSettings(), fp32) == ({}, 0)


def test_an_empty_summary_scores_nothing_and_no_documents_have_no_scores():
    assert rouge("", "A reference.") == dict.fromkeys(SCORED, 0.0)
    assert rouge("!?", "A reference.")["rouge1"] == 0.0
    assert Scorer().score([]) == ([], {metric: [] for metric in SCORED})


def test_a_report_shows_empty_summaries_as_empty(tmp_path):
    made = run("lora", documents=2, scores={metric: [0.0, 0.0] for metric in ("rouge1", "rouge2", "rougeL")})
    compared = compare(settings(), {"lora": [made]}, [], None)
    page = report.write(compared, {"lora": predictions(made, summary=" ")}, tmp_path).read_text("utf-8")
    assert "(empty)" in page and "nan" not in page.lower()
    assert report.terminal(compared)


@pytest.mark.parametrize("documents, passes", [(1, 3), (1, 0), (2, 0)])
def test_a_report_of_one_document_or_of_no_epochs_holds_no_number_that_is_none(tmp_path, documents, passes):
    runs = {name: [run(name, documents=documents, passes=passes)] for name in ("lora", "full")}
    runs["zero-shot"] = [run("zero-shot", control=True, documents=documents)]
    compared = compare(settings(), runs, [], None)
    page = report.write(compared, {}, tmp_path)
    for text in (page.read_text("utf-8"), report.terminal(compared), page.with_name("results.json").read_text("utf-8")):
        assert not any(word in text for word in ("NaN", "nan ", "inf ", "Infinity"))
