"""Layers that torch.compile fuses, on a processor: the engine's own code, with an operator of tests for attention."""

import dataclasses

import pytest
import torch
from baking import SMALL
from peaked import peaked
from torch._dynamo.utils import counters
from varlen_reference import opaque

from bakeoff import engine
from bakeoff.config import presets
from bakeoff.config.schema import Computation, plain
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.cuda import fused, varlen
from bakeoff.methods.parameters import shapes_of
from bakeoff.methods.registry import known_methods
from bakeoff.methods.selection import select
from bakeoff.runs import pipeline
from bakeoff.runs.base import Base
from bakeoff.runs.resources import Clock
from bakeoff.session import plan
from bakeoff.session.store import Store

METHODS = {name: entry for name, entry in known_methods().items() if not entry.control}
WHERE = Computation(device="cpu", precision="bf16", attention="sdpa", threads=1, engine="cuda", packing=True,
                    micro_batch_tokens=16_384, compiled=False, shared_prefix=False)  # fmt: skip
TEXTS = [Encoded([(7 * place + number) % 250 for place in range(9 + 5 * number)], 6) for number in range(5)]
ROWS = TEXTS[:2], TEXTS[4:], TEXTS


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """Flash attention for a processor; nothing that was compiled before is known."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(varlen, "DEVICES", ("cpu",))
    monkeypatch.setattr(varlen, "varlen_attn", opaque)
    monkeypatch.setattr(fused, "BACKEND", "aot_eager")  # traces, and computes as torch does: seconds
    yield
    torch._dynamo.reset()


def built(name, method="lora", **changes):
    """A tiny model with peaked attention, and what the method added."""
    model = peaked(name, **changes)
    own, chosen = set(map(id, model.parameters())), METHODS[method].kind()
    chosen = chosen.for_model(shapes_of(model)) if hasattr(chosen, "for_model") else chosen
    model = chosen.attach(model, None)
    return model, [parameter for parameter in model.parameters() if id(parameter) not in own]


def gradients(made, model):
    """The gradient of each row, as one tensor."""
    found = []
    for row in ROWS:
        model.zero_grad()
        made.loss(model, row).backward()
        given = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
        found.append(torch.cat([one.flatten() for one in given]))
    return found


def graphs():
    return counters["stats"]["unique_graphs"]


WINDOWS = {"gemma3": {"layer_types": ["sliding_attention", "full_attention"] * 2}}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "gpt_neox")]


@pytest.mark.parametrize("name", ["llama", *SLOW])
def test_layers_are_compiled_once_for_all_of_them_and_for_every_row(name):
    model, added = built(name, num_hidden_layers=4, **WINDOWS.get(name, {}))
    made = engine.make(WHERE, 256)
    with made.prepared(model, added, steps=fused.REPAYS) as model:
        assert made.reason(model) == ""
        compiled = graphs()
        of_layers = gradients(made, model.train())
        assert 0 < graphs() == compiled <= 4  # the first layer's input has no gradient; windows are another kind
        plain = gradients(made, model.eval())  # what is not trained is not compiled
        assert graphs() == compiled
    for one, other in zip(of_layers, plain, strict=True):
        assert fused.distance([one], [other]) < 0.02


def test_a_run_that_does_not_repay_the_compiler_compiles_nothing():
    for changes, steps in (({}, fused.REPAYS - 1), ({"fused": False}, fused.REPAYS),
                           ({"checkpoint_activations": True}, fused.REPAYS)):  # fmt: skip
        model, added = built("llama")
        made = engine.make(dataclasses.replace(WHERE, **changes), 256)
        with made.prepared(model, added, steps=steps) as model:
            made.loss(model.train(), ROWS[0]).backward()
            assert graphs() == 0
            assert bool(made.reason(model)) == bool(changes)


def test_layers_that_are_compiled_anew_for_each_row_stay_as_they_are(monkeypatch):
    """Without flash attention documents are taken one by one, and their number is part of what is compiled."""
    monkeypatch.setattr(varlen, "WIDEST", 0)
    model, added = built("llama")
    made = engine.make(WHERE, 256)
    with made.prepared(model, added, steps=fused.REPAYS) as model:
        assert "recompile" in made.reason(model)
        compiled = graphs()
        gradients(made, model.train())
        assert graphs() == compiled


def test_layers_that_compute_something_else_when_compiled_stay_as_they_are(monkeypatch):
    def twice(graph, examples):
        return lambda *given: [2 * one if one.is_floating_point() else one for one in graph(*given)]

    monkeypatch.setattr(fused, "BACKEND", twice)
    model, added = built("llama")
    made = engine.make(WHERE, 256)
    with made.prepared(model, added, steps=fused.REPAYS) as model:
        assert "compiled layers give another gradient" in made.reason(model)
        assert layout.answers(model)["fused"]


def test_torchs_own_attention_is_compiled_as_one_piece_for_rows_of_any_number_of_documents(monkeypatch):
    """On the device `meta`, where torch's operator has shapes and no values."""
    monkeypatch.undo()
    query, key, value = (torch.randn(1, heads, 1, 16, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2))

    def attention(of, q, k, v):
        return of(0, q[0], k[0], v[0], 0.25)

    compiled = torch.compile(attention, dynamic=True, fullgraph=True, backend="aot_eager")
    for lengths in ([9, 14], [30, 7, 5], [40]):
        rows = [part.expand(-1, -1, sum(lengths), -1).clone().requires_grad_() for part in (query, key, value)]
        out = compiled(varlen.Varlen(lengths, "meta", torch.bfloat16), *rows)
        out.sum().backward()
        assert out.shape == (sum(lengths), 4, 16) and all(part.grad.shape == part.shape for part in rows)
    assert graphs() == 1


def test_dropout_is_not_compiled():
    model, added = built("llama", attention_dropout=0.5)
    made = engine.make(WHERE, 256)
    with made.prepared(model, added, steps=fused.REPAYS) as model:
        assert "dropout" in made.reason(model)


def test_a_run_says_how_many_steps_it_has_where_it_trains_and_none_elsewhere(tmp_path, monkeypatch):
    said, prepared = [], Base.prepared

    def listen(self, model, answers=None, steps=0):
        said.append(steps)
        return prepared(self, model, answers, steps)

    monkeypatch.setattr(Base, "prepared", listen)
    changes = [*SMALL, "machine.device=cpu", "engine.compiled=false", "training.epochs=3", "training.batch_size=2"]
    chosen, store = presets.load("smoke", changes=changes), Store(tmp_path / "store")
    methods = [(entry.name, entry.name, str(entry.file), plain(entry.kind())) for entry in select(["lora"])]
    made = plan.make(chosen, ["lora"], store, plan.probe(plan.sections(chosen), methods, str(store.models), print))
    for name in ("lora", "zero-shot"):
        pipeline.run(made.specs[name][0], tmp_path / name, tmp_path / "store" / "models", lambda news: None, Clock())
    assert said[0] == 6 and not any(said[1:]) and len(said) >= 3


@pytest.mark.slow
def test_what_inductor_compiles_gives_the_same_bits_again(monkeypatch):
    monkeypatch.setattr(fused, "BACKEND", "inductor")
    found = []
    for _ in range(2):
        torch._dynamo.reset()
        model, added = built("llama")
        made = engine.make(WHERE, 256)
        with made.prepared(model, added, steps=fused.REPAYS) as model:
            assert made.reason(model) == ""
            found.append(gradients(made, model.train()))
            plain = gradients(made, model.eval())
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert all(fused.distance([one], [other]) < 0.03 for one, other in zip(found[0], plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "bitfit", "soft-prompt", "dora", "adalora", "oft"])
def test_a_method_trains_compiled_as_it_does_otherwise_or_says_why_not(method):
    model, added = built("llama", method)
    made = engine.make(WHERE, 256)
    with made.prepared(model, added, steps=fused.REPAYS) as model:
        compiled, reason = graphs(), made.reason(model)
        trained = gradients(made, model.train())
        assert graphs() == compiled and bool(compiled) == (not reason)
        for one, other in zip(trained, gradients(made, model.eval()), strict=True):
            assert fused.distance([one], [other]) < 0.02
