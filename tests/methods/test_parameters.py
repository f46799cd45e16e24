"""Counting parameters."""

import subprocess
import sys

import pytest

from bakeoff.config import presets, schema
from bakeoff.methods.parameters import ParameterCounts, count, shapes_of
from bakeoff.methods.selection import configure, select
from bakeoff.models import loading
from bakeoff.shipped import ROOT

# The twelve counts that the published comparison prints (a tied tensor at each of its names).
PUBLISHED = {
    "last-layer": (163_799_040, 77_197_824, 86_601_216, 0),
    "lora": (164_388_864, 589_824, 163_799_040, 589_824),
    "soft-prompt": (163_799_808, 768, 163_799_040, 768),
}


@pytest.fixture(scope="module")
def reference():
    return presets.load("reference")


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_counts_are_the_published_ones(reference, name):
    [entry] = [entry for entry in select(["reference"]) if entry.name == name]
    method, _ = configure(entry, reference)
    counts = method.expected_parameters(shapes_of(loading.meta_model(reference.model))).with_ties()
    assert (counts.total, counts.trainable, counts.frozen, counts.added) == PUBLISHED[name]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "entry", [entry for entry in select(["all"]) if entry.needs_model], ids=lambda entry: entry.name
)
def test_closed_form_equals_what_attach_makes_trainable(tiny, entry, tied):
    model, tokenizer = tiny(tie_word_embeddings=tied)
    shapes = shapes_of(model)
    method = entry.kind()
    assert method.expected_parameters(shapes) == count(method.attach(model, tokenizer), shapes)


@pytest.mark.parametrize("tied", [True, False])
def test_untying_adds_a_head_only_where_there_was_a_tie(tiny, tied):
    [entry] = [entry for entry in select(["last-layer"]) if entry.name == "last-layer"]
    model, tokenizer = tiny(tie_word_embeddings=tied)
    shapes = shapes_of(model)
    method = entry.kind(untie=True)
    counts = method.expected_parameters(shapes)
    assert counts == count(method.attach(model, tokenizer), shapes)
    assert counts.added == (257 * 32 if tied else 0)


def test_a_bias_of_the_output_head_is_counted():
    config = {
        "model_type": "phi",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
    }
    model = loading.meta_model(schema.ModelSettings(name="random", architecture=config))
    [entry] = [entry for entry in select(["last-layer"]) if entry.name == "last-layer"]
    shapes = shapes_of(model)
    assert entry.kind().expected_parameters(shapes) == count(entry.kind().attach(model, None), shapes)
    assert entry.kind().expected_parameters(shapes).trainable == 64 * 32 + 64


def test_a_tied_tensor_counts_once_and_at_each_name_with_ties(tiny):
    model, _ = tiny()
    shapes = shapes_of(model)
    assert shapes.total == sum(p.numel() for p in model.parameters())
    assert shapes.tied == model.lm_head.weight.numel()
    assert shapes.names("lm_head.weight") == ["model.embed_tokens.weight", "lm_head.weight"]


def test_counts_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="contradictory"):
        ParameterCounts(total=10, trainable=4, frozen=5)


def test_the_command_prints_the_published_counts_without_network_or_weights():
    command = [sys.executable, "-m", "bakeoff", "parameters", "--preset", "reference", "--method", "reference"]
    blocked = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HF_HOME": "/nonexistent"}
    found = subprocess.run(command, cwd=ROOT, env=blocked, capture_output=True, text=True, check=True, timeout=120)
    assert found.stderr == ""
    shown = found.stdout
    for counts in PUBLISHED.values():
        for number in counts:
            assert f"{number:,}" in shown
