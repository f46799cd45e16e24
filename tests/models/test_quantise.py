"""Base models in four and eight bits: counted as they are in full, frozen to the bit, and trained beside."""

from dataclasses import replace

import jobs
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bakeoff import engine
from bakeoff.config.schema import Computation, ModelSettings, TrainingSettings
from bakeoff.core.errors import UsageError
from bakeoff.core.packed import packed, parts
from bakeoff.data.encoding import Encoded
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.selection import select
from bakeoff.models import eight_bits, loading, memory, quantise
from bakeoff.runs import adapters
from bakeoff.runs.resources import Clock
from bakeoff.runs.training import fine_tune
from bakeoff.session import worker

METHODS = {entry.name: entry.kind for entry in select(["every"]) if not entry.control}
WHERE = Computation(device="cpu", precision="bf16", attention="sdpa", threads=1, engine="cuda", fused=False,
                    compiled=False, shared_prefix=False)  # fmt: skip
UNABLE_HERE = {("dora", "int8"): "on a processor, bitsandbytes has no scales of a weight before its first product"}
TRAINING = TrainingSettings(epochs=3, batch_size=2, learning_rate=1e-2)
EXAMPLES = [Encoded(list(range(5, 30 + 3 * number)), 10) for number in range(4)]
VALUES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 257, "tie_word_embeddings": True, "eos_token_id": 256}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **VALUES), dtype=torch.bfloat16)
    model.save_pretrained(made)
    loading.byte_tokenizer().save_pretrained(made)
    return made


def loaded(folder, how, where=WHERE):
    settings = ModelSettings(name=str(folder), quantisation=how)
    source = loading.locate(settings)
    return loading.load(settings, source, loading.prepare(source, None), "sdpa", where=where)


QUANTISED = [("nf4", torch.uint8), ("int8", torch.int8), ("torchao-int8", torch.int8)]


def there(how):
    """Skips where the package that quantises so is not installed."""
    package = quantise.package_of(how)
    return pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.mark.parametrize("name", ["cuda", "cpu", "plain"])
@pytest.mark.parametrize(("how", "kind"), QUANTISED)
def test_a_quantised_base_is_counted_in_full_and_a_lora_is_trained_beside_it(folder, compiled, how, kind, name):
    there(how)
    if name == "cpu":
        compiled()  # kernels that would read eight bits as if they were sixteen
    where = replace(WHERE, engine=name, fused=name == "cpu", compiled=name == "cpu")
    model, tokenizer = loaded(folder, how, where)
    shapes, right = shapes_of(model), shapes_of(loaded(folder, "", None)[0])
    assert dict(shapes) == dict(right) and shapes.linear == right.linear
    lora = METHODS["lora"](targets="all-linear")
    own = set(map(id, model.parameters()))
    model = lora.attach(model, tokenizer)
    assert count(model, shapes) == lora.expected_parameters(right)
    made = engine.make(where, 256)
    with made.prepared(model, [one for one in model.parameters() if id(one) not in own]) as model:
        assert name == "plain" or made.documents(model) == "in one row"
        assert kinds(model) == {kind, torch.bfloat16, torch.float32}
        before = adapters.frozen_digests(model)
        expected = engine.make(replace(WHERE, engine="plain"), 256).loss(model, EXAMPLES).item()
        assert made.loss(model, EXAMPLES).item() == pytest.approx(expected, rel=1e-3)
        losses = fine_tune(made, model, EXAMPLES, EXAMPLES[:1], TRAINING, seed=0, clock=Clock()).steps
        assert losses[-1]["loss"] < losses[0]["loss"]
        assert adapters.frozen_digests(model) == before
        with made.writing(model):
            assert len(made.generate(model, [[5, 6]], 4, rows=2, ends=(), vocabulary=range(257))[0]) == 4
        assert kinds(model) == {kind, torch.bfloat16, torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("how", [how for how, _ in QUANTISED])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_not_refused_trains_beside_quantised_weights(folder, name, how):
    there(how)
    settings, kind = ModelSettings(name=str(folder), quantisation=how), METHODS[name]
    where = replace(WHERE, engine="plain", precision="fp32")
    plain, tokenizer = loaded(folder, "", None)
    right = shapes_of(plain)
    method = kind().for_model(right) if hasattr(kind, "for_model") else kind()
    try:
        quantise.refuse_method(name, settings, right, method.attach(plain, tokenizer))
    except UsageError as refused:
        assert f"model.quantisation = {how!r}" in str(refused)
        return
    if why := UNABLE_HERE.get((name, how)):
        pytest.skip(why)
    model, _ = loaded(folder, how, where)
    own, shapes = set(map(id, model.parameters())), shapes_of(model)
    model = method.attach(model, tokenizer)
    assert count(model, shapes) == method.expected_parameters(right)
    made = engine.make(where, 256)
    with made.prepared(model, [one for one in model.parameters() if id(one) not in own]) as model:
        frozen, trained = adapters.frozen_digests(model), adapters.trained_digests(model)
        fine_tune(made, model, EXAMPLES, EXAMPLES[:1], TRAINING, seed=0, clock=Clock())
        assert adapters.frozen_digests(model) == frozen
        assert all(digest != trained[key] for key, digest in adapters.trained_digests(model).items())


def kinds(model):
    """The types of the numbers that are held."""
    return {part.dtype for tensor in model.parameters() for part in parts(tensor)}


def test_weights_go_where_they_are_computed_in_the_precision_of_files_and_run(folder):
    def found(device, precision, dtype, **more):
        class Config:
            def get_text_config(self):
                return type("Text", (), {"dtype": dtype})

        where = Computation(device=device, precision=precision, **more)
        return quantise.placed(ModelSettings(), Config, where)

    assert found("cpu", "bf16", torch.bfloat16) == {}
    on_card = {"device_map": {"": "cuda"}}
    assert found("cuda", "bf16", torch.bfloat16) == {**on_card, "dtype": torch.bfloat16}
    assert found("cuda", "bf16", torch.float16) == {**on_card, "dtype": torch.float16}  # and no fp32 on the way
    assert found("cuda", "bf16", torch.float32) == {**on_card, "dtype": torch.float32}
    assert found("cuda", "fp32", torch.float16) == {**on_card, "dtype": torch.float32}
    assert found("cuda", "fp32", torch.bfloat16) == {**on_card, "dtype": torch.float32}
    assert found("cuda", "bf16", torch.bfloat16, sharded=True)["device_map"] == {"": "cpu"}


@pytest.mark.parametrize("method", ["lora", "oft", "pissa", "full"])
def test_files_in_fp16_are_trained_as_if_they_had_been_widened_first(tmp_path, method):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **VALUES)
    AutoModelForCausalLM.from_config(config, dtype=torch.float16).save_pretrained(tmp_path)
    found = []
    for kind in (torch.float16, torch.float32):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=kind)
        own = set(map(id, model.parameters()))
        model = METHODS[method]().attach(model, None)
        made = engine.make(WHERE, 256)
        with made.prepared(model, [one for one in model.parameters() if id(one) not in own]) as model:
            assert {p.dtype for p in model.parameters()} <= {torch.bfloat16, torch.float32}
            found.append((made.loss(model.train(), EXAMPLES).item(), made.documents(model)))
    assert found[0][1] == found[1][1] == "in one row"
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)


def test_quantised_weights_are_not_divided_among_ranks(monkeypatch):
    monkeypatch.setattr(quantise, "installed", lambda package: {package: "1.0"})
    with pytest.raises(UsageError, match=r"nf4': FSDP2 can't share quantised weights; .*machine.sharded=false"):
        quantise.refuse_base(ModelSettings(quantisation="nf4"), "folder", "cuda", sharded=True)


@pytest.mark.parametrize(("device", "kind", "there", "said"), [
    ("cpu", "folder", True, "needs a GPU, and the run is on cpu; type --set model.quantisation=$"),
    ("cuda", "folder", False, "needs bitsandbytes, which is not installed; type pip install bitsandbytes$"),
    ("cuda", "random", True, "the model 'random' has no files to read; type --set model.quantisation=$"),
])  # fmt: skip
def test_what_cannot_be_quantised_is_refused_in_one_line(monkeypatch, device, kind, there, said):
    monkeypatch.setattr(quantise, "installed", lambda package: {package: "1.0" if there else "missing"})
    with pytest.raises(UsageError, match=f"^model.quantisation = 'nf4': {said}"):
        quantise.refuse_base(ModelSettings(quantisation="nf4"), kind, device)
    quantise.refuse_base(ModelSettings(), kind, device, sharded=True)


def test_torchao_quantises_on_a_processor_too(monkeypatch):
    settings = ModelSettings(quantisation="torchao-int8")
    monkeypatch.setattr(quantise, "installed", lambda package: {package: "1.0"})
    for device in ("cpu", "cuda"):
        quantise.refuse_base(settings, "folder", device)
    with pytest.raises(UsageError, match="needs a processor or a GPU, and the run is on mps"):
        quantise.refuse_base(settings, "folder", "mps")
    monkeypatch.setattr(quantise, "installed", lambda package: {package: "missing"})
    with pytest.raises(UsageError, match=r"needs torchao, which is not installed; type pip install torchao$"):
        quantise.refuse_base(settings, "folder", "cpu")


def test_a_method_that_trains_quantised_weights_is_refused(tiny):
    settings = ModelSettings(quantisation="nf4")
    for name in ("lora", "dora", "adalora", "ia3", "soft-prompt", "last-layer"):
        model, tokenizer = tiny()
        quantise.refuse_method(name, settings, shapes_of(model), METHODS[name]().attach(model, tokenizer))
    for name, reason in (
        ("pissa", "begins from a decomposition"),
        ("hra", "PEFT has no layer of HRA beside weights that bitsandbytes quantised"),
    ):
        model, tokenizer = tiny()
        attached = METHODS[name]().attach(model, tokenizer)
        with pytest.raises(
            UsageError, match=f"^method '{name}', model.quantisation = 'nf4': .*{reason}.*--method lora"
        ):
            quantise.refuse_method(name, settings, shapes_of(tiny()[0]), attached)
        quantise.refuse_method(name, ModelSettings(), shapes_of(tiny()[0]), attached)
    for name, place in (("full", "weight"), ("bitfit", "bias")):
        model, tokenizer = tiny()
        attached = METHODS[name]().attach(model, tokenizer)
        with pytest.raises(
            UsageError, match=rf"^method '{name}': trains model.layers.0.*\.{place}, .*--method lora or"
        ):
            quantise.refuse_method(name, settings, shapes_of(tiny()[0]), attached)


def test_what_eight_bit_layers_keep_beside_autograd_is_in_the_estimate(folder, monkeypatch):
    functions = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").autograd._functions
    monkeypatch.setattr(functions, "MatMul8bitFp", functions.MatMul8bitLt)  # a GPU's way instead of a processor's
    model, tokenizer = loaded(folder, "int8")
    model = METHODS["lora"]().attach(model, tokenizer)
    made, kept, seen = engine.make(WHERE, 256), {}, set()
    with made.prepared(model, [one for one in model.parameters() if one.requires_grad]) as model:
        waiting = [made.loss(model.train(), EXAMPLES[:1]).grad_fn]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            waiting += [before for before, _ in node.next_functions if before is not None]
            for tensor in getattr(node, "tensors", None) or ():
                if isinstance(tensor, torch.Tensor):
                    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    expected = len(EXAMPLES[0].ids) * VALUES["num_hidden_layers"] * memory.of_int8(model.config, 2)
    # The first layer's input needs no gradient where its embedding is frozen, so two of its products keep nothing.
    assert 0.7 * expected <= sum(kept.values()) <= expected


def test_products_with_eight_bits_of_torchao_keep_no_copy_of_a_weight_and_change_no_bit(folder, monkeypatch):
    there("torchao-int8")
    found = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(eight_bits, "keep_none", lambda model: None)
        model, tokenizer = loaded(folder, "torchao-int8")
        torch.manual_seed(0)
        model = METHODS["lora"](targets="all-linear").attach(model, tokenizer)
        weights = {part.untyped_storage().data_ptr() for one in model.parameters() for part in parts(one)}
        sizes, kept = {tuple(one.shape) for one in model.parameters() if packed(one)}, set()

        def keep(tensor, weights=weights, kept=kept):
            if tensor.untyped_storage().data_ptr() not in weights:
                kept |= {tuple(tensor.shape), tuple(tensor.shape)[::-1]}
            return tensor

        made = engine.make(replace(WHERE, engine="plain"), 256)
        with made.prepared(model, [one for one in model.parameters() if one.requires_grad]) as model:
            for name, one in model.named_parameters():
                if "lora_B" in name:
                    one.data.fill_(0.01)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = made.loss(model.train(), EXAMPLES[:1])
            loss.backward()
            found.append((loss, [one.grad for one in model.parameters() if one.requires_grad]))
            assert bool(sizes & kept) is not own
    assert torch.equal(found[0][0], found[1][0]) and all(map(torch.equal, found[0][1], found[1][1]))


@pytest.mark.parametrize(("how", "layer"), [("nf4", "Linear4bit"), ("torchao-int8", "Linear")])
def test_what_quantises_is_hidden_from_a_run_until_it_asks_for_it(folder, tmp_path, how, layer):
    there(how)
    worker.start_server(offline=True)
    found = worker.call(jobs.quantised, str(folder), how, WHERE, log=tmp_path / "log")
    assert found == {"before": [], "layers": [layer], "same": True}
