"""What holds of every method that ships: its closed form, what it freezes, and that it is listed where people look."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from bakeoff import engine
from bakeoff.config.schema import Computation, ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoded
from bakeoff.methods.parameters import shapes_of
from bakeoff.methods.registry import known_methods
from bakeoff.models import blueprint
from bakeoff.runs import side_effects
from bakeoff.runs.attaching import fitted
from bakeoff.shipped import ROOT
from lab.compatibility.cells import PACKED, Workbench

SIZE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
SHAPES = {
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "opt": {**SIZE, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "gemma3_text": {**SIZE, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 32},
    "qwen3": {**SIZE, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 32},
    "llama": {**SIZE, "intermediate_size": 96, "num_key_value_heads": 2},
}
"""Keys and values are half as wide as queries where heads are grouped, heads wider than hidden size / heads in two."""
METHODS = {name: entry for name, entry in known_methods().items() if not entry.control}
REFUSED = {
    ("olora", "gpt2"): "a Conv1D, as if it were transposed",  # it attaches, and computes something else
    ("loha", "gpt2"): "Conv1D'> not supported",
    ("lokr", "gpt2"): "Conv1D'> not supported",
    ("delora", "gpt2"): r"Conv1D.* is not supported",
    ("miss", "gpt2"): r"Conv1D.* is not supported",
    ("kasa", "gpt2"): "does not support `fan_in_fan_out=True`",
    ("lily", "gpt2"): "Lily does not support target modules",
    ("oft", "gpt2"): "Conv1D",
    ("hra", "gpt2"): "Conv1D",
    ("psoft", "gpt2"): "Conv1D",
    ("road", "gpt2"): "Conv1D",
    ("c3a", "gpt2"): "Conv1D",
    ("shira", "gpt2"): "Conv1D",
    ("supertuning", "gpt2"): "Conv1D",
    ("peanut", "gpt2"): "Conv1D",
    ("glora", "gpt2"): "Conv1D",
    ("osf", "gpt2"): "no target layer is one",  # PEFT passes over Conv1D without a word, so the method says it
    ("beft", "gpt2"): "no value projection that is a layer of its own",  # fused, and PEFT's BEFT takes no Conv1D
    ("adaption-prompt", "opt"): "Unsupported model type for adaption prompt",
    ("adaption-prompt", "gemma3_text"): "Unsupported model type for adaption prompt",
    ("adaption-prompt", "qwen3"): "Unsupported model type for adaption prompt",
}
"""Where PEFT can't attach: the words with which a plan says so."""


def builder(kind):
    """What builds a tiny model of an architecture."""
    values = {"model_type": kind, "vocab_size": 257, "bos_token_id": 1, "eos_token_id": 1, **SHAPES[kind]}
    chosen = ModelSettings(name="random", architecture=values)
    return blueprint.builder(chosen, None, blueprint.vocabulary(chosen, None))


def fit(name, kind):
    return fitted(METHODS[name], METHODS[name].kind(), builder(kind), "tiny")


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_the_closed_form_is_what_is_attached_or_the_plan_refuses(name, kind):
    if (name, kind) in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[name, kind]):
            fit(name, kind)
        return
    _, expected, model = fit(name, kind)  # raises where the two differ
    assert expected.trainable == sum(one.numel() for one in model.parameters() if one.requires_grad) > 0


OTHERWISE = {
    "adalora": [{"first_rank": 5, "rank": 3}],
    "adaption-prompt": [{"virtual_tokens": 3, "layers": 1}],
    "c3a": [{"block": 2}, {"block": 4}],
    "cartridge": [{"virtual_tokens": 3}],
    "deft": [{"decomposition": "qr"}, {"rank": 3, "decomposition": "qr"}, {"rank": 3}],
    "fourierft": [{"coefficients": 5}],
    "frod": [{"share": 0.1}],
    "gralora": [{"rank": 8, "blocks": 4}, {"rank": 6, "blocks": 1}],
    "last-blocks": [{"blocks": 1}],
    "last-layer": [{"untie": True}],
    "lily": [{"rank": 3, "stride": 1, "writers": 3}],
    "lokr": [{"rank": 2}, {"rank": 2, "factor": 3}, {"factor": 5}],
    "miss": [{"rank": 8}],
    "oft": [{"block": 4}],
    "osf": [{"kept": 0.25}],
    "p-tuning": [{"virtual_tokens": 3, "hidden": 7}],
    "peanut": [{"depth": 2}, {"rank": 3, "depth": 1}],
    "prefix": [{"virtual_tokens": 3, "hidden": 7}],
    "psoft": [{"rank": 4}],
    "pvera": [{"rank": 3}],
    "randlora": [{"rank": 3}],
    "road": [{"variant": 2}, {"variant": 4}],
    "shira": [{"rank": 3}],
    "soft-prompt": [{"virtual_tokens": 3}],
    "supertuning": [{"rank": 3}, {"sparsity": 0.9}],
    "tinylora": [{"rank": 3, "numbers": 7}, {"tying": 0.5}, {"tying": 1.0}],
    "unilora": [{"rank": 3, "length": 100}],
    "vb-lora": [{"rank": 3, "vectors": 20, "top": 3}, {"length": 4}],
    "vera": [{"rank": 3}],
    "waveft": [{"coefficients": 5}],
}
"""Settings of methods that change what is trained, beside the rank that they are given where they have one."""


def otherwise():
    ranked = [(name, {"rank": 3}) for name, entry in METHODS.items() if name not in OTHERWISE
              and "rank" in {one.name for one in dataclasses.fields(entry.kind)}]  # fmt: skip
    return [*ranked, *((name, values) for name, each in OTHERWISE.items() for values in each)]


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize(("name", "values"), otherwise())
def test_the_closed_form_holds_at_other_settings(name, values, kind):
    if (name, kind) in REFUSED:
        pytest.skip(f"PEFT can't attach {name} to {kind}")
    _, expected, model = fitted(METHODS[name], METHODS[name].kind(**values), builder(kind), "tiny")
    assert expected.trainable == sum(one.numel() for one in model.parameters() if one.requires_grad) > 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("cells"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_losses_gradients_texts_and_the_reloaded_adapter_are_those_of_transformers(bench, name):
    cell = bench.cell("llama", name)
    assert (cell.verdict, cell.words if cell.path == PACKED else "") == ("works", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["cpu", "plain"])
def test_a_method_is_trained_and_writes_in_bf16(kind, name):
    torch.manual_seed(0)
    base = builder("llama")("cpu")
    method = METHODS[name].kind()
    method = method.for_model(shapes_of(base)) if hasattr(method, "for_model") else method
    own, losses = {id(one) for one in base.parameters()}, []
    model = method.attach(base, None)
    added = [one for one in model.parameters() if id(one) not in own]
    examples = [Encoded([(7 * place) % 250 for place in range(12 + 5 * number)], 6) for number in range(3)]
    for precision in ("fp32", "bf16"):
        where = Computation(device="cpu", precision=precision, attention="sdpa", threads=1, engine=kind, compiled=False)
        made = engine.make(where, 256)
        with made.prepared(model, added) as model:
            loss = made.loss(model.train(), examples)
            loss.backward()
            losses.append(loss.item())
            with made.writing(model):
                texts = made.generate(model, [one.ids for one in examples], 4, rows=2, ends=(), vocabulary=range(257))
            assert [len(text) for text in texts] == [4] * 3
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


WHOLE = ("adaption-prompt", "beft", "bitfit", "cartridge", "full", "last-blocks", "last-layer", "layer-norm", "lily",
         "p-tuning", "prefix", "soft-prompt")  # fmt: skip
"""What has no form in the base model's weights, or is one already."""


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_merged_model_says_what_the_one_with_an_adapter_says(name):
    torch.manual_seed(0)
    base = builder("llama")("cpu")
    method = METHODS[name].kind()
    method = method.for_model(shapes_of(base)) if hasattr(method, "for_model") else method
    model, ids = method.attach(base, None).eval(), torch.arange(12)[None]
    with torch.no_grad():
        before = model(ids).logits
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        said = model(ids).logits
        whole = side_effects.merged(model)
        assert (whole is None) == (name in WHOLE) and not torch.allclose(said, before, atol=1e-6)
        assert whole is None or torch.allclose(whole(ids).logits, said, atol=1e-5)


@pytest.mark.slow
def test_every_method_passes_the_bench(tmp_path, furnished):
    furnished(tmp_path / "store")
    command = [sys.executable, "-m", "pytest", "bench/", "--preset", "smoke", "--method", "every", "-q"]
    places = ["--store", str(tmp_path / "store"), "--report-dir", str(tmp_path / "report"), "-p", "no:cacheprovider"]
    found = subprocess.run([*command, *places], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-3000:]
    assert set(json.loads((tmp_path / "report" / "results.json").read_text())["methods"]) == set(METHODS)


def test_the_documentation_says_which_methods_an_architecture_can_not_have():
    page = (ROOT / "docs" / "methods.md").read_text()
    names = {"gpt2": "GPT-2", "opt": "OPT", "gemma3_text": "Gemma 3", "qwen3": "Qwen3"}
    for kind, shown in names.items():
        refused = ", ".join(f"`{name}`" for name in sorted(name for name, other in REFUSED if other == kind))
        assert f"| {shown} | {refused} |" in page


def test_every_method_is_a_row_of_the_documentation():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name, entry in METHODS.items() if f"| `{name}` | `methods/{entry.file.name}` |" not in page] == []
