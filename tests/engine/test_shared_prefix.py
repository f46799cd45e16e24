"""Documents that begin with the same tokens: computed once, and every figure as if each had its own."""

import dataclasses

import pytest
import torch
from computing import loss_of, summarise

from bakeoff.config.schema import GenerationSettings, TaskSettings
from bakeoff.data.encoding import Encoded, Encoder
from bakeoff.engine import attention, layout, shared_prefix
from bakeoff.engine.cpu import layers, native
from bakeoff.engine.cpu.kernels import BLOCK
from bakeoff.engine.shared_prefix import Copies, SharedPrefix
from bakeoff.methods.selection import select

METHODS = {entry.name: entry for entry in select(["all"])}
HEAD = list(b"Summarize in one sentence: ")


@pytest.fixture(params=["plain", "fused", "compiled"])
def kind(request, compiled):
    """How layers compute."""
    if request.param == "compiled":
        compiled()
    return request.param


@pytest.fixture
def alike():
    """Documents with the same instruction in front, of one block of queries and of several."""
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 9, 40, BLOCK, BLOCK + 9)
    bodies = [torch.randint(0, 256, (size,), generator=draw).tolist() for size in sizes]
    return [Encoded([*HEAD, *body], len(HEAD) + (len(body) // 2 or 1)) for body in bodies]


@pytest.fixture
def tokens(monkeypatch):
    """How many tokens each call of a model was given, beside those by which its layout is found."""
    seen = []
    plain, asked = attention.forward, layout.answer

    def spy(model, segments, lengths, keep, places=None, **inputs):
        seen.extend(tensor.shape[1] for tensor in inputs.values())
        return plain(model, segments, lengths, keep, places, **inputs)

    def unseen(*given):
        before = list(seen)
        found = asked(*given)
        seen[:] = before
        return found

    monkeypatch.setattr(attention, "forward", spy)
    monkeypatch.setattr(layout, "answer", unseen)
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


def noisy(module, *given):
    return type(module).plain_forward(module, *given) + torch.randn(())


CHANGES = {
    "module": lambda norm, trunk: setattr(trunk, "norm", torch.nn.Sequential(norm, Noise())),
    "convolution": lambda norm, trunk: setattr(trunk, "norm", torch.nn.Sequential(norm, torch.nn.RReLU())),
    "patch": lambda norm, trunk: setattr(norm, "forward", lambda x, plain=norm.forward: Noise()(plain(x))),
    "hook": lambda norm, trunk: norm.register_forward_hook(lambda module, given, found: Noise()(found)),
    "early hook": lambda norm, trunk: norm.register_forward_pre_hook(lambda module, given: Noise()(given[0])),
    "backward hook": lambda norm, trunk: norm.register_full_backward_hook(lambda module, given, found: None),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("training", [True, False])
def test_what_a_method_brings_is_given_the_tokens_of_every_document(tiny, alike, fp32, tokens, what, training):
    model = attached(tiny, "lora", "plain")
    layout.settle(model, [], packing=True)
    trunk = model.get_base_model().model
    CHANGES[what](trunk.norm, trunk)
    loss_of(model.train(training), alike, 256, fp32)
    assert tokens == [sum(len(example.ids) for example in alike)]


def test_a_class_of_transformers_that_a_method_patched_is_given_the_tokens_of_every_document(
    tiny, alike, fp32, tokens, monkeypatch
):
    model = attached(tiny, "lora", "plain")
    layout.settle(model, [], packing=True)
    kind = type(model.get_base_model().model.norm)
    monkeypatch.setattr(kind, "plain_forward", kind.forward, raising=False)
    monkeypatch.setattr(kind, "forward", noisy)
    loss_of(model, alike, 256, fp32)
    assert tokens == [sum(len(example.ids) for example in alike)]


def test_dropout_in_training_draws_for_every_token(tiny, alike, fp32, tokens):
    model = attached(tiny, "lora", "plain", dropout=0.5)
    for training in (True, False):
        loss_of(model.train(training), alike, 256, fp32)
    assert tokens[0] - tokens[1] == (len(alike) - 1) * len(HEAD)


def test_a_token_in_common_is_not_worth_a_copy_of_the_row(tiny, fp32, tokens):
    some = [Encoded([7, *range(number, number + 99)], 50) for number in (1, 2)]
    loss_of(attached(tiny, "lora", "plain"), some, 256, fp32)
    assert tokens == [200]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_a_step_is_quick_a_tenth_of_it_is_not_worth_a_copy(tiny, fp32, tokens, compiled, precision):
    some = [Encoded([*range(20), *range(number, number + 99)], 50) for number in (100, 101)]
    more = [Encoded([*example.ids[:20] * 10, *example.ids[20:]], 250) for example in some]
    machine = dataclasses.replace(fp32, precision=precision)
    for fast in (False, True):
        if fast:
            compiled()
        quick = fast and precision == "bf16" and native.kernels_for(torch.empty(0, dtype=torch.bfloat16)).tiles
        for documents in (some, more):
            loss_of(attached(tiny, "lora", "plain"), documents, 256, machine)
        assert tokens == [238 - 20 * (not quick), 598 - 200]
        tokens.clear()


def test_another_number_of_tokens_than_the_row_has_is_refused(tiny):
    model, _ = tiny()
    segments = attention.Documents([5, 4])
    segments.shared = SharedPrefix([5, 4], 2, "cpu")
    cos = torch.ones(1, 8, 8)
    with pytest.raises(ValueError, match="attention is given 8 tokens, where a row has 7"):
        layers.heads(model.model.layers[0].self_attn, torch.randn(1, 8, 32), (cos, cos), segments)


@pytest.mark.parametrize("name", ["lora", "soft-prompt"])
def test_in_bf16_the_gradient_is_as_near_to_that_of_fp32(tiny, alike, fp32, tokens, monkeypatch, kind, name):
    monkeypatch.setattr(shared_prefix, "WORTH", dict.fromkeys(shared_prefix.WORTH, 0.02))
    model = attached(tiny, name, kind)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.data = parameter.data.bfloat16().float()
    _, exact = loss_and_gradient(model, alike, fp32)
    for parameter in frozen:
        parameter.data = parameter.data.bfloat16()
    bf16 = dataclasses.replace(fp32, precision="bf16")
    ours, theirs = (
        torch.norm(loss_and_gradient(model, alike, dataclasses.replace(bf16, shared_prefix=shared))[1] - exact)
        for shared in (True, False)
    )
    assert ours < 1.5 * theirs < 0.05 * torch.norm(exact)
    assert tokens[-2] < tokens[-1]  # shared, and not


@pytest.mark.parametrize("changes", [{"model_type": "qwen3"}, {"attention_bias": True}], ids=["qwen3", "bias"])
def test_other_architectures_write_the_same(tiny, task, fp32, tokens, kind, changes):
    model, tokenizer = tiny(**changes)
    if kind != "plain":
        layers.install(model)
    prompts = [HEAD + list(f"{'lorem ' * (3 + number)}:".encode()) for number in range(6)]
    flash = dataclasses.replace(fp32, attention="sdpa")
    settings = GenerationSettings(batch_size=4)
    ours = summarise(model, tokenizer, prompts, 12, settings, flash)
    read, tokens[:] = sum(tokens), []
    assert ours == summarise(model, tokenizer, prompts, 12, settings, dataclasses.replace(fp32, shared_prefix=False))
    assert read < sum(tokens)


def test_what_documents_add_to_a_shared_tokens_gradient_is_rounded_once():
    shared = SharedPrefix([2] * 300, 1, "cpu")
    row = torch.zeros(301, 1, dtype=torch.bfloat16, requires_grad=True)
    Copies.apply(row, shared).sum().backward()
    assert row.grad.flatten().tolist() == [300.0] + [1.0] * 300  # one by one, bf16 would stay at 256
