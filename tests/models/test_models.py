"""Base models: from memory, a folder and a GGUF file; refused in one line where they are not what they should be."""

import contextlib
import importlib.util
import json
import os
import shutil
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers

from bakeoff.config import presets
from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import shapes_of
from bakeoff.models import gguf as conversion
from bakeoff.models import loading
from bakeoff.models import safety as weights_file

HUGE = 2**62
ARCHITECTURE = dict(presets.load("smoke").model.architecture)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("a mödel") / "tiny"
    model, tokenizer = load("random", architecture=ARCHITECTURE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved model, to be broken."""
    return shutil.copytree(saved, tmp_path / "tiny")


def load(name, attention="eager", **changes):
    chosen = ModelSettings(name=str(name), **changes)
    source = loading.locate(chosen)
    return loading.load(chosen, source, loading.prepare(source, None), attention)


def complaint(name, **changes):
    """The one line that loading answers with."""
    with pytest.raises(UsageError) as caught:
        load(name, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(file, **values):
    """Changes keys of a JSON file; None takes one away."""
    kept = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# What a model is


@pytest.mark.parametrize("special_tokens", [(), ("<a>", "<b>")])
def test_a_random_model_is_the_same_under_every_seed(tiny, special_tokens):
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(tiny(special_tokens=special_tokens)[0])
    assert torch.equal(*map(weights, made))


def test_building_a_random_model_draws_nothing_from_the_runs_own_numbers(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny()
    assert torch.equal(torch.rand(3), expected)


def test_a_saved_model_is_loaded_in_single_precision(saved, tiny):
    model, tokenizer = load(saved)
    assert torch.equal(weights(model), weights(tiny()[0]))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert len(tokenizer) == 257


def test_special_tokens_grow_the_embeddings_by_their_mean_whatever_the_seed(saved):
    before, grown = load(saved)[0].get_input_embeddings().weight, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, tokenizer = load(saved, special_tokens=("<|a|>", "<|b|>"))
        grown.append(model.get_input_embeddings().weight)
        assert len(tokenizer) == len(grown[-1]) == 259
        assert tokenizer("x<|b|>").input_ids[-1] == 258
    assert torch.equal(*grown)
    assert torch.equal(grown[0][:257], before)
    assert torch.allclose(grown[0][257:], before.mean(dim=0).expand(2, -1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("special_tokens", [(), ("<|a|>",)])
def test_tied_heads_stay_tied_and_untied_ones_untied(tmp_path, tiny, tied, special_tokens):
    model, tokenizer = tiny(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load(tmp_path, special_tokens=special_tokens)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert len(model.get_output_embeddings().weight) == len(tokenizer)
    assert shapes_of(model) == shapes_of(loading.meta_model(ModelSettings(name=str(tmp_path)), None, len(tokenizer)))


def test_a_token_that_is_there_already_grows_nothing(saved):
    model, _ = load(saved, special_tokens=("<|end|>",))
    assert len(model.get_input_embeddings().weight) == 257


def test_the_padding_token_is_the_asked_one_else_the_end_token(saved):
    assert load(saved)[1].pad_token == "<|end|>"
    assert load(saved, special_tokens=("<|pad|>",), pad_token="<|pad|>")[1].pad_token_id == 257
    assert "add it to model.special_tokens" in complaint(saved, pad_token="<|pad|>")


def test_the_hash_changes_with_any_file_that_matters(folder):
    hashes = [loading.locate(ModelSettings(name=str(folder))).sha256]
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        file = folder / name
        if name == "model.safetensors":
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        else:
            file.write_text(file.read_text() + " ")
        hashes.append(loading.locate(ModelSettings(name=str(folder))).sha256)
    (folder / "README.md").write_text("no matter")
    assert loading.locate(ModelSettings(name=str(folder))).sha256 == hashes[-1]
    assert len(set(hashes)) == 4


# What is wrong with one


@pytest.mark.parametrize(
    "name, expected",
    [
        ("smollm2-135n", "did you mean 'smollm2-135m'?"),
        ("gpt2", "known: smollm2-135m; or give a hub id, a folder or a .gguf file"),
        ("./nowhere", "is not known"),
        ("/no/where", "is not known"),
        ("nowhere.gguf", "no such file"),
        ("random", "model_type = ''"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, expected):
    assert expected in complaint(name)


def test_weights_that_are_not_installed_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert complaint("smollm2-135m").endswith("type python -m bakeoff assets --install")


def test_weights_that_are_not_the_measured_ones_are_refused(monkeypatch):
    monkeypatch.setitem(loading.KNOWN, "smollm2-135m", (*loading.KNOWN["smollm2-135m"][:2], "0" * 64, ""))
    assert "expected 000000" in complaint("smollm2-135m")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_folder_with_a_pickle_alone_is_refused(folder, pickle):
    (folder / "model.safetensors").rename(folder / pickle)
    expected = f"{pickle} is a pickle, which can run code when it is read; expected *.safetensors"
    assert complaint(folder).startswith(f"--model {folder}: {expected}")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "can't load its tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(folder, name, expected):
    (folder / name).unlink()
    assert expected in complaint(folder)


@pytest.mark.parametrize("torn", [lambda data: data[:-1], lambda data: b"", lambda data: b"\xff" * 64,
                                  lambda data: data[:5], lambda data: data + b"\0"])  # fmt: skip
def test_a_torn_safetensors_file_is_refused_before_anything_runs(folder, torn):
    file = folder / "model.safetensors"
    file.write_bytes(torn(file.read_bytes()))
    with pytest.raises(UsageError, match=r"model.safetensors is torn \(.*\); copy or download it again"):
        loading.locate(ModelSettings(name=str(folder)))


def claim(**changes):
    """A safetensors file of eight bytes of data whose header claims what it likes."""
    header = json.dumps({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize("data", [
    claim(shape=[HUGE]), claim(shape=[3]), claim(shape=[HUGE, HUGE]), claim(data_offsets=[0, HUGE]),
    claim(data_offsets=[8, 0]), claim(data_offsets=[4, 12]), claim(dtype="F99"), claim(shape=[-1]),
    struct.pack("<Q", 2**63) + claim()[8:], struct.pack("<Q", 0) + claim()[8:], claim()[:-4],
], ids=lambda data: ascii(data[8:90]))  # fmt: skip
def test_a_safetensors_file_that_lies_about_its_sizes_is_refused(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    assert "model.safetensors is torn" in complaint(folder)


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": 3}}, {}, [], 3])
def test_an_index_names_only_files_of_its_folder(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in complaint(folder)


def test_a_pickle_beside_whole_weights_is_not_read(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "it ran").encode())
    load(folder)
    assert not (tmp_path / "it ran").exists()


def test_code_that_a_tokenizer_brings_is_not_run(folder, tmp_path):
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["theirs.Tokenizer", None]},
           tokenizer_class="TheirTokenizer")  # fmt: skip
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    with contextlib.suppress(UsageError):
        load(folder)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0", '{"model_type": "no-such"}'])
def test_a_wrong_configuration_is_one_line(folder, text):
    (folder / "config.json").write_text(text)
    assert f"--model {folder}: " in complaint(folder)


def test_a_folder_that_lacks_some_of_the_weights_is_refused(folder):
    change(folder / "config.json", num_hidden_layers=3)
    assert "its files lack 9 of its weights, as model.layers.2." in complaint(folder)


def test_weights_of_another_size_are_refused(folder):
    change(folder / "config.json", hidden_size=64)
    assert "can't load its weights" in complaint(folder)


def test_a_model_that_writes_no_text_is_refused(folder):
    change(folder / "config.json", model_type="vit")
    assert "can't load its weights" in complaint(folder)
    with pytest.raises(UsageError, match="no causal language model"):
        loading.meta_model(ModelSettings(name="x", architecture={"model_type": "vit"}))


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    change(folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    assert "its tokenizer has no end token (eos_token)" in complaint(folder)


@pytest.mark.parametrize("part", ["load", "count"])
def test_code_that_a_model_brings_is_not_run(folder, tmp_path, part):
    mark = tmp_path / "it ran"
    change(folder / "config.json", model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})
    (folder / "theirs.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(UsageError, match=r"wants to run code of its own; if you trust it, type --trust-remote-code$"):
        load(folder) if part == "load" else loading.meta_model(ModelSettings(name=str(folder)))
    assert not mark.exists()


def test_a_hub_without_a_network_is_one_line(monkeypatch):
    def unreachable(*arguments, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    expected = "can't be loaded from the hub (ConnectionError); check the name and the network"
    assert complaint("someone/some-model").startswith(f"--model someone/some-model: {expected}")


def test_a_hub_model_is_asked_for_safetensors_and_no_code(monkeypatch, saved):
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or str(saved)
    )
    load("someone/some-model", revision="abc")
    assert asked["revision"] == "abc"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"model_type": "lama"}, "model_type = 'lama'"),
        (
            {"hidden_sise": 64},
            "model.architecture.hidden_sise is not a setting of 'llama'; did you mean 'hidden_size'?",
        ),
        ({"num_layers": 3}, "did you mean 'num_hidden_layers'?"),
        ({"hidden_size": "wide"}, "'hidden_size' expected int"),
        ({"hidden_size": 33}, "not a multiple of the number of attention heads"),
        ({"num_attention_heads": 0}, "model_type = 'llama': ZeroDivisionError"),
    ],
)
def test_a_wrong_architecture_is_named(changes, expected):
    assert expected in complaint("random", architecture={**ARCHITECTURE, **changes})


def test_an_architecture_may_hold_what_transformers_moves_elsewhere():
    config = loading.configuration(ModelSettings(architecture={**ARCHITECTURE, "rope_theta": 5e5}))
    assert config.rope_parameters["rope_theta"] == 5e5


def test_an_attention_that_a_model_lacks_is_refused_where_it_was_asked_for_and_else_avoided(saved):
    chosen = ModelSettings(name=str(saved))
    assert loading.attention(chosen, None, "sdpa", forced=True) == "sdpa"
    with pytest.raises(UsageError, match=r"no flash_attention_2 attention \(.*\); type --set engine.attention=eager"):
        loading.attention(chosen, None, "flash_attention_2", forced=True)
    assert loading.attention(chosen, None, "flash_attention_2", forced=False) == "eager"


# GGUF


def gguf_bytes(values=(), tensors=(), counts=None, data=b""):
    """A GGUF file: `values` as raw bytes behind their keys, `tensors` as shapes of fp32."""
    count = counts or (len(tensors), len(values))
    keys = b"".join(text(b"key") + value for value in values)
    infos = b"".join(text(b"t") + struct.pack(f"<I{len(t)}QIQ", len(t), *t, 0, 0) for t in tensors)
    return b"GGUF" + struct.pack("<IQQ", 3, *count) + keys + infos + data


def text(content, length=None):
    return struct.pack("<Q", len(content) if length is None else length) + content


LIES = {
    "no magic": b"GGML" + bytes(100),
    "tensors that are not there": gguf_bytes(counts=(HUGE, 0)),
    "values that are not there": gguf_bytes(counts=(0, HUGE)),
    "a long key": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"key", HUGE),
    "a long text": gguf_bytes([struct.pack("<I", 8) + text(b"x", HUGE)]),
    "a long list": gguf_bytes([struct.pack("<IIQ", 9, 4, HUGE)]),
    "a long list of texts": gguf_bytes([struct.pack("<IIQ", 9, 8, HUGE)]),
    "a list of lists": gguf_bytes([struct.pack("<IIQ", 9, 9, 1)]),
    "an unknown type": gguf_bytes([struct.pack("<I", 99)]),
    "many dimensions": gguf_bytes(tensors=[[1] * 9]),
    "a large tensor": gguf_bytes(tensors=[[1000, 1000]], data=bytes(100)),
    "a tensor larger than memory": gguf_bytes(tensors=[[HUGE, HUGE]], data=bytes(100)),
    "an unknown quantisation": gguf_bytes(tensors=[[1]]).replace(struct.pack("<IQ", 0, 0), struct.pack("<IQ", 999, 0)),
    "a tensor behind the end": gguf_bytes(tensors=[[1]]).replace(struct.pack("<IQ", 0, 0), struct.pack("<IQ", 0, HUGE)),
}


def test_a_conversion_parses_its_file_once_and_leaves_libraries_as_they_were(tmp_path):
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    def all_of_them():
        return [dict(vars(module)) for module in (gguf, gguf.quants, reading)]

    (tmp_path / "empty.gguf").write_bytes(gguf_bytes())
    before = all_of_them()
    with pytest.raises(KeyError), conversion.parsed_once():
        assert gguf.GGUFReader(tmp_path / "empty.gguf") is gguf.GGUFReader(tmp_path / "empty.gguf")
        assert all_of_them() != before
        raise KeyError
    assert all_of_them() == before


def test_a_conversion_parses_by_plain_arrays_of_the_same_bytes(tmp_path):
    import gguf
    import numpy

    (tmp_path / "one.gguf").write_bytes(gguf_bytes([struct.pack("<II", 4, 7)]))
    expected = gguf.GGUFReader(tmp_path / "one.gguf").data
    with conversion.parsed_once():
        data = gguf.GGUFReader(tmp_path / "one.gguf").data
    assert type(data) is numpy.ndarray
    assert numpy.array_equal(data, expected)


@pytest.mark.parametrize("order", "<>")
def test_a_conversion_parses_lists_as_gguf_does(tmp_path, order):
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    def listed(kind, values, count):
        return struct.pack(f"{order}IIQ", 9, kind, count) + values

    def worded(content):
        return struct.pack(f"{order}Q", len(content)) + content

    texts = ["", "a", "zwölf", "Ġthe"]
    lists = {
        "texts": listed(8, b"".join(worded(word.encode()) for word in texts), 4),
        "none": listed(8, b"", 0),
        "numbers": listed(4, struct.pack(f"{order}3I", 5, 0, 2**31), 3),
        "truths": listed(7, bytes([1, 0]), 2),
        "a number": struct.pack(f"{order}II", 4, 7),
    }
    head = b"GGUF" + struct.pack(f"{order}IQQ", 3, 0, len(lists))
    values = b"".join(worded(key.encode()) + value for key, value in lists.items())
    (tmp_path / "lists.gguf").write_bytes(head + values)

    def read():
        fields, parse = gguf.GGUFReader(tmp_path / "lists.gguf").fields, reading._gguf_parse_value
        return {key: ([parse(field.parts[index], field.types) for index in field.data], field.types)
                for key, field in fields.items()}  # fmt: skip

    plainly = read()
    with conversion.parsed_once():
        assert read() == plainly
    assert plainly["texts"][0] == texts and plainly["numbers"][0] == [5, 0, 2**31]


@pytest.mark.parametrize("rows", [1, 37, 3000])
@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K"])
def test_a_conversion_dequantises_as_gguf_does(kind, rows):
    import gguf
    import numpy

    kind = gguf.GGMLQuantizationType[kind]
    rows = numpy.random.default_rng(0).integers(60, 64, (rows, 4 * gguf.GGML_QUANT_SIZES[kind][1]), dtype=numpy.uint8)
    plainly = gguf.dequantize(rows, kind)
    with conversion.parsed_once():
        assert numpy.array_equal(gguf.dequantize(rows, kind), plainly)
    assert numpy.isfinite(plainly).all() and plainly.any()


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_a_gguf_file_that_lies_about_its_sizes_is_refused_before_it_is_read(tmp_path, monkeypatch, data):
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    path = tmp_path / "lies.gguf"
    path.write_bytes(data)
    chosen = ModelSettings(name=str(path))
    for read in (
        lambda: loading.prepare(loading.locate(chosen), tmp_path / "cache"),
        lambda: loading.meta_model(chosen),
    ):
        with pytest.raises(UsageError, match=r"lies.gguf: not a GGUF file that transformers reads \(.+\); copy"):
            read()


def test_the_real_weights_pass_the_check():
    weights_file.check_gguf(loading.Path(loading.locate(ModelSettings()).path))


@pytest.mark.parametrize("size", [0, 3, 1000, 2_000_000])
def test_a_truncated_gguf_file_is_refused(tmp_path, size):
    whole = loading.locate(ModelSettings()).path
    path = tmp_path / "torn.gguf"
    with open(whole, "rb") as file:
        path.write_bytes(file.read(size))
    with pytest.raises(UsageError, match="not a GGUF file that transformers reads") as caught:
        loading.prepare(loading.locate(ModelSettings(name=str(path))), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not [left for left in (tmp_path / "cache").iterdir() if left.is_dir()]


@pytest.fixture
def gguf(tmp_path, tiny, monkeypatch):
    """A GGUF file whose reader is not asked: transformers gives the tiny model for it."""
    model, tokenizer = tiny()
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: tokenizer)
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes())
    return loading.locate(ModelSettings(name=str(tmp_path / "tiny.gguf")))


def test_a_gguf_file_is_converted_once(tmp_path, gguf, monkeypatch, tiny):
    folder = loading.prepare(gguf, tmp_path / "cache")
    monkeypatch.setattr(loading, "convert", None)
    assert loading.prepare(gguf, tmp_path / "cache") == folder
    monkeypatch.undo()
    assert torch.equal(weights(load(folder)[0]), weights(tiny()[0]))
    assert "lm_head.weight" not in safetensors.torch.load_file(folder / "model.safetensors")


def test_of_runs_that_begin_at_once_one_converts_and_nobody_loses_what_it_loads(tmp_path, gguf, monkeypatch):
    cache, made, together = tmp_path / "cache", [], threading.Barrier(4)

    def convert(path, folder):
        time.sleep(0.1)
        made.append(folder)
        conversion.convert(path, folder)

    def run(_):
        together.wait(10)
        folder = loading.prepare(gguf, cache, planned=True)
        return (folder / "model.safetensors").stat().st_ino

    monkeypatch.setattr(loading, "convert", convert)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(run, range(4)))) == 1
    assert len(made) == 1


def test_what_a_killed_conversion_left_is_removed_by_the_next(tmp_path, gguf):
    folder = loading.prepare(gguf, tmp_path / "cache")
    left, other = (folder.with_name(f".converting-{name}-x") for name in (folder.name, "other-0"))
    left.mkdir()
    other.mkdir()
    (folder / "model.safetensors").unlink()
    loading.prepare(gguf, tmp_path / "cache")
    assert other.exists() and not left.exists()


def test_a_conversion_with_a_changed_or_missing_byte_is_made_again(tmp_path, gguf):
    folder = loading.prepare(gguf, tmp_path / "cache")
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for broken in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], None):
            file.unlink() if broken is None else file.write_bytes(broken)
            assert loading.prepare(gguf, tmp_path / "cache") == folder
            assert file.read_bytes() == whole


def test_a_file_that_the_plan_has_read_is_read_again_only_to_be_converted(tmp_path, gguf, monkeypatch):
    settings, cache, read = ModelSettings(name=gguf.path), tmp_path / "cache", []
    monkeypatch.setattr(loading, "sha256_of", lambda path, plain=loading.sha256_of: read.append(path) or plain(path))
    loading.prepare(gguf, cache)
    source = loading.locate(settings, known=gguf.sha256)
    folder = loading.prepare(source, cache, planned=True)
    assert source == gguf and not read
    (folder / "config.json").unlink()
    assert loading.prepare(source, cache, planned=True) == folder and len(read) == 1
    (folder / "config.json").unlink()
    loading.Path(gguf.path).write_bytes(gguf_bytes() + b"\0")
    with pytest.raises(UsageError, match="changed since this bake-off was planned"):
        loading.prepare(source, cache, planned=True)


def test_a_run_reads_the_conversion_that_its_plan_has_read_only_where_it_was_touched(tmp_path, gguf, monkeypatch):
    folder, read, plain = loading.prepare(gguf, tmp_path), [], conversion.checksum
    monkeypatch.setattr(conversion, "checksum", lambda path: read.append(path) or plain(path))
    loading.prepare(gguf, tmp_path, planned=True)
    assert not read
    loading.prepare(gguf, tmp_path)
    assert read
    read.clear()
    weights = folder / "model.safetensors"
    whole, times = weights.read_bytes(), (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    time.sleep(0.05)  # a file system's clock ticks every few milliseconds
    weights.write_bytes(bytes(len(whole)))
    os.utime(weights, ns=times)  # as a backup might
    loading.prepare(gguf, tmp_path, planned=True)
    assert read and weights.read_bytes() == whole


def test_a_conversion_that_fails_leaves_nothing(tmp_path, gguf, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        loading.prepare(gguf, tmp_path / "cache")
    assert not [left for left in (tmp_path / "cache").iterdir() if left.is_dir()]


def test_a_setting_that_only_a_models_code_reads_is_one():
    shape = {"model_type": "qwen3_moe", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 257}
    found = loading.configuration(ModelSettings(name="random", architecture={**shape, "head_dim": 16}))
    assert found.head_dim == 16
    with pytest.raises(UsageError, match="head_dimm is not a setting of 'qwen3_moe'"):
        loading.configuration(ModelSettings(name="random", architecture={**shape, "head_dimm": 16}))
