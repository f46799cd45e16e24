"""Every engine is held against plain: the same loss, the same gradient, the same text, on one architecture each."""

import contextlib
import copy
import dataclasses

import pytest
import torch
from peaked import peaked
from transformers import AutoModelForCausalLM
from varlen_reference import varlen_attn

from bakeoff import engine
from bakeoff.config import hardware
from bakeoff.config.schema import Computation
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.cuda import decoding, merged, varlen
from bakeoff.engine.cuda.fused import REPAYS
from bakeoff.methods.selection import select

PLAIN = Computation(device="cpu", precision="fp32", attention="eager", threads=1, engine="plain", packing=False,
                    fused=False, compiled=False, shared_prefix=False)  # fmt: skip
CPU = dataclasses.replace(PLAIN, engine="cpu", packing=True, fused=True, shared_prefix=True)
CUDA = dataclasses.replace(PLAIN, engine="cuda", packing=True, fused=True, attention="sdpa", micro_batch_tokens=16_384)
ENGINES = {
    "cpu": CPU,
    "cpu, compiled": dataclasses.replace(CPU, compiled=True),
    "cpu, sdpa": dataclasses.replace(CPU, attention="sdpa"),
    "cpu, rows alone": dataclasses.replace(CPU, fused=False, shared_prefix=False),
    "cuda": CUDA,
    "cuda, flash attention": CUDA,
}
NAMES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "gpt2",
    "opt",
    "gpt_neox",
    "phi",
    "bloom",
    "mamba",
)
CASES = [
    *((kind, name) for kind in ENGINES if kind.startswith("cpu") for name in NAMES),
    *(("cuda, flash attention", name) for name in ("llama", "qwen2", "gemma3", "gpt2", "gpt_neox", "bloom")),
    *(("cuda", name) for name in ("llama", "gemma2")),
]
UNPACKED = ("gemma2", "bloom", "mamba")
"""Without flash attention: scores that are squeezed, and no packed rows."""
LORA = next(entry.kind for entry in select(["lora"]) if entry.name == "lora")
PROMPTS = [[5, 6, 7, *range(number, number + 4 + 3 * number)] for number in range(6)]
EXAMPLES = [Encoded([*prompt, 1, 2, 3 + number], len(prompt)) for number, prompt in enumerate(PROMPTS)]


def built(name):
    """A tiny model with peaked attention and a LoRA that is not 0."""
    model = peaked(name)
    own = set(map(id, model.parameters()))
    model = LORA(rank=2, targets="auto" if name == "mamba" else "all-linear").attach(model, None)
    added = [parameter for parameter in model.parameters() if id(parameter) not in own]
    with torch.no_grad():
        for parameter in added:
            parameter.normal_(0, 0.1)
    return model, added


def figures(where, name, steps=0):
    """Loss, gradient and token ids of the six documents by the engine that `where` names, for so many steps."""
    model, added = built(name)
    made = engine.make(where, 256)
    with made.prepared(model, added, steps=steps) as model:
        loss = made.loss(model.train(steps > 0), EXAMPLES)
        with hardware.repeatable(where.device):
            loss.backward()
        gradient = torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad]).cpu()
        rows = []
        with made.writing(model):
            size = made.chunk(model, 2)
            for start in range(0, len(PROMPTS), size):
                some = PROMPTS[start : start + size]
                rows += made.generate(model, some, 6, rows=2, ends={256}, vocabulary=range(257))
        reason = made.reason(model)
    assert not any("forward" in vars(module) for module in model.modules())  # all patches are undone
    return loss.item(), gradient, rows, reason


@pytest.fixture(scope="module")
def plain():
    """Figures of the plain engine, each computed once."""
    known = {}
    return lambda name: known.setdefault(name, None) or known.update({name: figures(PLAIN, name)}) or known[name]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_loss_gradient_and_text_are_those_of_plain(plain, compiled, monkeypatch, name, kind):
    calls = []
    if kind == "cuda, flash attention":
        monkeypatch.setattr(varlen, "HALF", (torch.float32,))
        monkeypatch.setattr(varlen, "DEVICES", ("cpu",))
        monkeypatch.setattr(
            varlen, "varlen_attn", lambda *given, **named: calls.append(named) or varlen_attn(*given, **named)
        )
    if ENGINES[kind].compiled:
        compiled()
    loss, gradient, rows, reason = figures(ENGINES[kind], name)
    expected = plain(name)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert torch.norm(gradient - expected[1]) < 1e-4 * torch.norm(expected[1])
    assert rows == expected[2]
    assert bool(calls) == (kind == "cuda, flash attention" and name not in UNPACKED)
    assert reason  # on no architecture is a model in fp32 computed in the fastest way


def test_the_figures_can_tell_engines_apart(plain):
    """Peaked attention: a document that saw its neighbour would have another loss."""
    model, added = built("llama")
    made = engine.make(PLAIN, 256)
    model = made.prepare(model, added).eval()
    mixed = copy.deepcopy(EXAMPLES[1])
    mixed.ids[0] += 1
    assert made.loss(model, [mixed]).item() != pytest.approx(made.loss(model, [EXAMPLES[1]]).item(), rel=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "close", "steps"), [
    ("fp32", 1e-4, 0), ("bf16", 0.05, 0), pytest.param("bf16", 0.05, REPAYS, marks=pytest.mark.compiles),
])  # fmt: skip
def test_a_card_gives_the_figures_of_plain_on_a_processor(plain, monkeypatch, name, precision, close, steps):
    where = dataclasses.replace(CUDA, device="cuda", precision=precision)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    loss, gradient, rows, reason = figures(where, name, steps)
    expected = plain(name)
    assert loss == pytest.approx(expected[0], rel=close / 10)
    assert torch.norm(gradient - expected[1]) < close * torch.norm(expected[1])
    assert precision == "bf16" or rows == expected[2]
    again = figures(where, name, steps)
    assert again[0] == loss and again[2] == rows and torch.equal(again[1], gradient)
    assert not reason or precision == "fp32" or name in UNPACKED


def test_micro_batches_by_tokens_leave_the_gradient_as_it_is():
    model, added = built("llama")
    made = engine.make(dataclasses.replace(CUDA, micro_batch_tokens=40), 256)
    found, sizes = [], []
    with made.prepared(model, added) as model:
        for groups in (list(made.micro_batches(model, EXAMPLES, 1)), [EXAMPLES]):
            sizes.append([sum(len(example.ids) for example in group) for group in groups])
            model.zero_grad()
            for group in groups:
                made.loss(model.eval(), group).backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert sizes == [[10 + 13 + 16, 19, 22, 25], [105]]
    assert torch.norm(found[0] - found[1]) < 1e-5 * torch.norm(found[1])


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma3", "gpt2", "opt", "gpt_neox", "phi"])
def test_nothing_is_asked_of_a_device_while_it_trains_and_writes(monkeypatch, name):
    """The device `meta` has no values to give; what it is asked to compute is what a GPU is, flash attention too."""
    monkeypatch.setattr(varlen, "HALF", (torch.float32,))
    made = engine.make(dataclasses.replace(CUDA, device="meta"), 256)
    monkeypatch.setattr(made, "products", contextlib.nullcontext)  # autocast knows no such device
    model = built(name)[0].to("meta")
    assert name != "gpt2" or model.config.pad_token_id is not None  # it would look for padding
    monkeypatch.setattr(layout, "answers", lambda model: {"packed": "", "varlen": "", "head": "", "steady": ""})
    monkeypatch.setattr(layout, "packed", lambda model: "")
    made.loss(model, EXAMPLES).backward()
    rows = decoding.Rows(model.eval(), 2, 256, torch.tensor([3]), "meta")
    with torch.no_grad():
        rows.read(PROMPTS[:2], [0, 1], 6, torch.float32)
        rows.compute()
    assert all(parameter.grad.device.type == "meta" for parameter in model.parameters() if parameter.requires_grad)


def test_lora_is_added_while_a_model_writes_and_every_matrix_is_as_before_afterwards():
    model, added = built("llama")
    made = engine.make(CUDA, 256)
    with made.prepared(model, added) as model:
        pairs = merged.pairs(model.eval())
        before = [layer.weight.data.clone() for _, layer, _ in pairs]
        assert len(pairs) == 14 and layout.answers(model)["merged"] == ""
        with made.writing(model):
            for (module, layer, pair), weight in zip(pairs, before, strict=True):
                whole = weight.double() + pair.scaling * pair.lora_B.double() @ pair.lora_A.double()
                assert module.disable_adapters and torch.allclose(layer.weight.double(), whole, atol=1e-5)
        for (module, layer, _), weight in zip(pairs, before, strict=True):
            assert torch.equal(layer.weight, weight) and not module.disable_adapters


def test_lora_stays_beside_its_matrices_where_memory_ends_where_they_are_tied_and_where_it_is_off():
    model, added = built("llama")
    assert "no room" in merged.unmergeable(model.eval(), 1000)
    tied = AutoModelForCausalLM.from_config(model.get_base_model().config)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    attached = LORA(rank=2, targets=("lm_head", "q_proj")).attach(tied, None).eval()
    assert {type(layer).__name__ for _, layer, _ in merged.pairs(attached)} == {"Linear"}
    assert len(merged.pairs(attached)) == 2  # the two layers' queries, not the head
    made = engine.make(dataclasses.replace(CUDA, merged=False), 256)
    with made.prepared(model, added) as model, made.writing(model):
        assert not any(module.disable_adapters for module, _, _ in merged.pairs(model))
        assert "merged" not in layout.answers(model)


def test_one_cache_serves_chunks_of_shorter_prompts():
    model, added = built("llama")
    made = engine.make(CUDA, 256)
    long, short = [list(range(5, 60)) * 6], [[5, 6, 7]]
    with made.prepared(model, added) as model, made.writing(model):
        texts = [made.generate(model, prompts, 3, rows=1, ends=(), vocabulary=range(257)) for prompts in (short, long)]
        held = vars(model)["_bakeoff_rows"]
        assert made.generate(model, short, 3, rows=1, ends=(), vocabulary=range(257)) == texts[0]
        assert vars(model)["_bakeoff_rows"] is held and held[1].cache.capacity > 256


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_rows_that_are_refilled_write_what_each_prompt_alone_is_answered(limit):
    model, added = built("llama")
    made = engine.make(CUDA, 256)
    prompts = [[(7 * row + 3 * place) % 250 for place in range(2 + 5 * (row % 4))] for row in range(7)]
    with made.prepared(model, added) as model, made.writing(model):
        ends = {made.generate(model, [prompts[0]], 20, rows=1, ends=(), vocabulary=range(257))[0][9]}
        alone = [made.generate(model, [p], limit, rows=1, ends=ends, vocabulary=range(257))[0] for p in prompts]
        together = made.generate(model, prompts, limit, rows=3, ends=ends, vocabulary=range(257))
    assert together == alone
    assert all(len(row) <= limit and not ends & set(row[:-1]) for row in together)
