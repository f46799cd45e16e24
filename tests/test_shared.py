"""Documents that begin with the same tokens: computed once, and every figure as if each had its own."""

import dataclasses

import pytest
import torch

from bakeoff import attention, layers, native
from bakeoff.catalogue import select
from bakeoff.encoding import Encoded, Encoder
from bakeoff.generation import summarise
from bakeoff.kernels import BLOCK
from bakeoff.settings import GenerationSettings, TaskSettings
from bakeoff.training import loss_of

METHODS = {entry.name: entry for entry in select(["all"])}
HEAD = list(b"Summarize in one sentence: ")


@pytest.fixture(params=["plain", "fused", "compiled"])
def kind(request, libraries):
    """How layers compute."""
    if request.param == "compiled":
        try:
            native.build(libraries)
        except native.NoCompiler as missing:
            pytest.skip(f"native.c can't be compiled: {missing}")
    yield request.param
    native.close()


@pytest.fixture
def alike():
    """Documents with the same instruction in front, of one block of queries and of several."""
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 9, 40, BLOCK, BLOCK + 9)
    bodies = [torch.randint(0, 256, (size,), generator=draw).tolist() for size in sizes]
    return [Encoded([*HEAD, *body], len(HEAD) + (len(body) // 2 or 1)) for body in bodies]


@pytest.fixture
def tokens(monkeypatch):
    """How many tokens each call of a model was given."""
    seen = []
    plain = attention.forward

    def spy(model, segments, lengths, keep, places=None, **inputs):
        seen.extend(tensor.shape[1] for tensor in inputs.values())
        return plain(model, segments, lengths, keep, places, **inputs)

    monkeypatch.setattr(attention, "forward", spy)
    return seen


def attached(tiny, name, kind, **changes):
    torch.manual_seed(0)
    model = METHODS[name].kind(**changes).attach(*tiny(max_position_embeddings=1024))
    with torch.no_grad():  # B of a LoRA starts at 0, which would hide what A does
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.1)
    if kind != "plain":
        layers.install(model)
    return model


def loss_and_gradient(model, examples, machine):
    model.zero_grad()
    loss = loss_of(model, examples, 256, machine)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "full"])
def test_the_gradient_is_that_of_documents_with_beginnings_of_their_own(tiny, alike, fp32, tokens, kind, name):
    model = attached(tiny, name, kind)
    ours = loss_and_gradient(model, alike, fp32)
    theirs = loss_and_gradient(model, alike, dataclasses.replace(fp32, shared_prefix=False))
    virtual = attention.virtual_tokens(model)
    assert tokens[1] - tokens[0] == (len(alike) - 1) * (len(HEAD) + virtual)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert torch.norm(ours[1] - theirs[1]) <= 1e-5 * torch.norm(theirs[1])


def test_virtual_tokens_are_shared_where_documents_have_nothing_in_common(tiny, encoded, fp32, tokens):
    model = attached(tiny, "soft-prompt", "plain")
    loss_of(model, encoded, 256, fp32)
    assert tokens == [sum(len(example.ids) for example in encoded) + attention.virtual_tokens(model)]


def test_equal_documents_keep_their_own_labels(tiny, alike, fp32, tokens):
    model = attached(tiny, "lora", "plain")
    once, twice = (loss_of(model, alike[2:3] * count, 256, fp32).item() for count in (1, 2))
    assert tokens[1] < 2 * tokens[0]
    assert twice == pytest.approx(2 * once, rel=1e-6)


def test_a_document_that_is_all_prompt_but_one_token_is_no_prefix_of_others(tiny, fp32):
    model = attached(tiny, "lora", "plain")
    some = [Encoded(HEAD, len(HEAD) - 1), Encoded([*HEAD, 1, 2, 3], len(HEAD) + 1)]
    together = loss_of(model, some, 256, fp32).item()
    assert together == pytest.approx(sum(loss_of(model, [one], 256, fp32).item() for one in some), rel=1e-6)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "zero-shot"])
@pytest.mark.parametrize("rows", [2, 8])
def test_texts_are_those_of_prompts_with_beginnings_of_their_own(tiny, task, fp32, tokens, kind, name, rows):
    model = attached(tiny, name, kind)
    _, tokenizer = tiny()
    with torch.no_grad():  # a model that ends its summaries at different lengths
        model.get_output_embeddings().weight.mul_(8)
        model.get_output_embeddings().weight[tokenizer.eos_token_id] += 0.3
    encoder = Encoder(tokenizer, task, TaskSettings(max_input_tokens=96))
    prompts = [HEAD + encoder.prompt(example)[0] for example in task.examples.train]
    settings = GenerationSettings(batch_size=rows)
    ours = summarise(model, tokenizer, prompts, 20, settings, fp32)
    read, tokens[:] = sum(tokens), []
    assert ours == summarise(model, tokenizer, prompts, 20, settings, dataclasses.replace(fp32, shared_prefix=False))
    assert read < sum(tokens)
    assert ours == summarise(model, tokenizer, prompts, 20, settings, dataclasses.replace(fp32, packing=False))


class Noise(torch.nn.Module):
    """Something that a method may put into a model: another draw for every token."""

    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize("what", ["dropout", "module", "patch", "hook"])
def test_what_may_draw_for_every_token_is_given_every_token(tiny, alike, fp32, tokens, what):
    model = attached(tiny, "lora", "plain", **({"dropout": 0.5} if what == "dropout" else {}))
    embeddings = model.get_input_embeddings()
    if what == "module":
        model.base_model.model.model.norm = torch.nn.Sequential(model.base_model.model.model.norm, Noise())
    if what == "patch":
        plain = embeddings.forward
        embeddings.forward = lambda ids: Noise()(plain(ids))
    if what == "hook":
        embeddings.register_forward_hook(lambda module, given, found: found + torch.randn_like(found))
    every = sum(len(example.ids) for example in alike)
    loss_of(model.train(), alike, 256, fp32)
    assert tokens == [every]
    loss_of(model.eval(), alike, 256, fp32)
    assert tokens[1] == every - (len(alike) - 1) * len(HEAD)


def test_what_changes_the_number_of_tokens_is_told(tiny, alike, fp32, kind):
    model = attached(tiny, "lora", kind)
    embeddings = model.get_input_embeddings()
    plain = embeddings.forward
    embeddings.forward = lambda ids: torch.nn.functional.pad(plain(ids), (0, 0, 0, 1))
    with pytest.raises((ValueError, RuntimeError), match=r"tokens|size"):
        loss_of(model.eval(), alike, 256, fp32)
