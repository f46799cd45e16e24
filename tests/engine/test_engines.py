"""Every engine is held against plain: the same loss, the same gradient, the same text, on one architecture each."""

import copy
import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bakeoff import engine
from bakeoff.config.schema import Computation
from bakeoff.data.encoding import Encoded
from bakeoff.methods.selection import select
from lab.compatibility.architectures import ARCHITECTURES, WIDE

PLAIN = Computation(device="cpu", precision="fp32", attention="eager", threads=1, engine="plain", packing=False,
                    fused=False, compiled=False, shared_prefix=False)  # fmt: skip
CPU = dataclasses.replace(PLAIN, engine="cpu", packing=True, fused=True, shared_prefix=True)
ENGINES = {
    "cpu": CPU,
    "cpu, compiled": dataclasses.replace(CPU, compiled=True),
    "cpu, sdpa": dataclasses.replace(CPU, attention="sdpa"),
    "cpu, rows alone": dataclasses.replace(CPU, fused=False, shared_prefix=False),
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
LORA = next(entry.kind for entry in select(["lora"]) if entry.name == "lora")
PROMPTS = [[5, 6, 7, *range(number, number + 4 + 3 * number)] for number in range(6)]
EXAMPLES = [Encoded([*prompt, 1, 2, 3 + number], len(prompt)) for number, prompt in enumerate(PROMPTS)]


def built(name):
    """A tiny model with peaked attention and a LoRA that is not 0."""
    values = dict(ARCHITECTURES[name])
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, WIDE)
    own = set(map(id, model.parameters()))
    model = LORA(rank=2, targets="auto" if name == "mamba" else "all-linear").attach(model, None)
    added = [parameter for parameter in model.parameters() if id(parameter) not in own]
    with torch.no_grad():
        for parameter in added:
            parameter.normal_(0, 0.1)
    return model, added


def figures(where, name):
    """Loss, gradient and token ids of the six documents by the engine that `where` names."""
    model, added = built(name)
    made = engine.make(where, 256)
    with made.prepared(model, added) as model:
        loss = made.loss(model.eval(), EXAMPLES)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENGINES)
def test_loss_gradient_and_text_are_those_of_plain(plain, compiled, name, kind):
    if ENGINES[kind].compiled:
        compiled()
    loss, gradient, rows, reason = figures(ENGINES[kind], name)
    expected = plain(name)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert torch.norm(gradient - expected[1]) < 1e-4 * torch.norm(expected[1])
    assert rows == expected[2]
    assert reason  # on no architecture is a model in fp32 computed in the fastest way


def test_the_figures_can_tell_engines_apart(plain):
    """Peaked attention: a document that saw its neighbour would have another loss."""
    model, added = built("llama")
    made = engine.make(PLAIN, 256)
    model = made.prepare(model, added).eval()
    mixed = copy.deepcopy(EXAMPLES[1])
    mixed.ids[0] += 1
    assert made.loss(model, [mixed]).item() != pytest.approx(made.loss(model, [EXAMPLES[1]]).item(), rel=1e-3)
