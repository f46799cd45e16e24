"""What is counted before a run is what a run loads; a folder that is no base model to train is refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bakeoff.cli import main
from bakeoff.config import presets
from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import shapes_of
from bakeoff.models import blueprint, loading

ARCHITECTURE = dict(presets.load("smoke").model.architecture)
ENDS = {"bos_token_id": 256, "eos_token_id": 256}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives a folder with a tiny model of 320 rows for 257 tokens, tied as the test wants it."""

    def build(tied):
        folder = tmp_path_factory.mktemp("base") / "tiny"
        chosen = ModelSettings(name="random", architecture={**ARCHITECTURE, **ENDS, "tie_word_embeddings": tied})
        model, tokenizer = loading.load(chosen, loading.locate(chosen), None, "eager")
        model.resize_token_embeddings(320, mean_resizing=False)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    kept = {tied: build(tied) for tied in (True, False)}
    return kept.get


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the tied one, to be changed."""
    return shutil.copytree(saved(True), tmp_path / "tiny")


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def both(folder, **changes):
    """Shapes and ties before a run, and of what the run loads."""
    chosen = ModelSettings(name=str(folder), **changes)
    planned = blueprint.builder(chosen, folder, blueprint.vocabulary(chosen, folder))("meta")
    loaded, _ = loading.load(chosen, loading.locate(chosen), folder, "eager")
    return [(dict(shapes), shapes.ties) for shapes in map(shapes_of, (planned, loaded))]


def complaint(folder, **changes):
    """The one line with which a bake-off on the folder ends."""
    chosen = ModelSettings(name=str(folder), **changes)
    with pytest.raises(UsageError) as caught:
        loading.locate(chosen)
        blueprint.builder(chosen, folder, blueprint.vocabulary(chosen, folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("added", [(), ("<a>",), tuple(f"<{n}>" for n in range(70))], ids=["none", "one", "more"])
def test_a_padded_vocabulary_counts_in_a_plan_as_in_a_run(saved, tied, added):
    planned, loaded = both(saved(tied), special_tokens=added)
    assert planned == loaded
    assert planned[0]["model.embed_tokens.weight"] == (max(320, 257 + len(added)), 32)
    assert bool(planned[1]) == tied


def test_the_command_counts_a_folder_as_a_run_loads_it(saved, capsys):
    added = [f"<{n}>" for n in range(70)]
    assert main(["parameters", "--model", str(saved(True)), "--method", "full", "--set",
                 f"model.special_tokens={added}"]) == 0  # fmt: skip
    chosen = ModelSettings(name=str(saved(True)), special_tokens=tuple(added))
    model, _ = loading.load(chosen, loading.locate(chosen), saved(True), "eager")
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" in capsys.readouterr().out


def test_a_token_that_is_there_already_counts_once_for_a_random_model():
    chosen = ModelSettings(name="random", architecture={**ARCHITECTURE, "vocab_size": 300}, special_tokens=("<|end|>",))
    planned = blueprint.builder(chosen, None, blueprint.vocabulary(chosen, None))("meta")
    loaded, _ = loading.load(chosen, loading.locate(chosen), None, "eager")
    assert dict(shapes_of(planned)) == dict(shapes_of(loaded))
    assert planned.get_input_embeddings().num_embeddings == 257


@pytest.mark.parametrize("added", [(), tuple(f"<{n}>" for n in range(70))], ids=["as-it-is", "grown"])
@pytest.mark.parametrize("other", [True, False])
def test_a_head_that_the_files_hold_apart_stays_apart(folder, other, added):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    if other:
        tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    planned, loaded = both(folder, special_tokens=added)
    assert planned == loaded and bool(planned[1]) != other
    model, _ = loading.load(ModelSettings(name=str(folder), special_tokens=added), loading.locate(ModelSettings(
        name=str(folder))), folder, "eager")  # fmt: skip
    assert torch.equal(model.lm_head.weight[:320], tensors["lm_head.weight"])
    assert torch.equal(model.model.embed_tokens.weight[:320], tensors["model.embed_tokens.weight"])


def test_an_adapter_beside_the_base_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "an adapter (adapter_config.json) lies beside the base model" in complaint(folder)


def test_an_adapter_alone_is_called_one(folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter (adapter_config.json) and no base model" in complaint(folder)


@pytest.mark.parametrize(
    "quantised, word",
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"load_in_8bit": True}, "an unnamed method"),
    ],
)
def test_a_quantised_base_is_refused_before_its_weights_are_read(folder, quantised, word):
    change(folder, quantization_config=quantised)
    assert f"its weights are quantised ({word}, in config.json)" in complaint(folder)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("model.layers.0.mlp.up_proj.weight", torch.float8_e4m3fn, "F8_E4M3"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", torch.float32, "F32"),
        ("model.layers.0.mlp.up_proj.qweight", torch.int32, "I32"),
    ],
)
def test_weights_with_scales_are_refused_though_the_configuration_says_nothing(folder, name, kind, said):
    tensors = load_file(folder / "model.safetensors")
    like = tensors["model.layers.0.mlp.up_proj.weight"]
    save_file({**tensors, name: like.to(kind).clone()}, folder / "model.safetensors", {"format": "pt"})
    assert f"its weights are quantised (model.safetensors holds {name}, {said})" in complaint(folder)


def test_weights_that_do_not_fit_the_configuration_are_refused_before_a_run(folder):
    change(folder, intermediate_size=96)
    assert "can't load its weights" in complaint(folder)
    change(folder, intermediate_size=64, num_hidden_layers=3)
    assert "its files lack 9 of its weights" in complaint(folder)


def test_an_architecture_that_is_not_the_folders_is_refused(saved):
    assert complaint(saved(False), architecture={**ARCHITECTURE, "vocab_size": 320, "intermediate_size": 96}) == (
        f"model.architecture is not that of {saved(False)}: model.layers.0.mlp.gate_proj.weight is (96, 32) by it, "
        "(64, 32) in the files; mend [model.architecture] or take it out"
    )
