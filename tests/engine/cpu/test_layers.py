"""Layers in fewer passes over memory: the figures of transformers' and PEFT's own modules."""

import dataclasses

import pytest
import torch
from computing import loss_of, summarise, writing
from torch import nn

from bakeoff.config.hardware import has_bf16
from bakeoff.config.schema import GenerationSettings
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.cpu import layers
from bakeoff.engine.cpu.head import ROWS, CrossEntropy
from bakeoff.engine.cpu.kernels import BLOCK
from bakeoff.engine.timing import quicker, remembered
from bakeoff.methods.selection import select

METHODS = {entry.name: entry.kind for entry in select(["all"])}
ARCHITECTURES = ({}, {"attention_bias": True, "mlp_bias": True}, {"model_type": "qwen2"}, {"model_type": "qwen3"},
                 {"model_type": "mistral", "sliding_window": None, "head_dim": 8})  # fmt: skip


@pytest.fixture(params=["torch", "compiled"], autouse=True)
def kernels(request, compiled):
    """Every test here holds with torch's operators and with the compiled kernels."""
    if request.param == "compiled":
        compiled()
    return request.param


@pytest.fixture
def long():
    """Documents of 1 block of queries, of several, and of hardly a token."""
    draw = torch.Generator().manual_seed(0)
    return [Encoded(torch.randint(0, 256, (size,), generator=draw).tolist(), size // 2 or 1)
            for size in (2, 40, BLOCK, BLOCK + 1, 2 * BLOCK + 5)]  # fmt: skip


def stirred(model):
    """B of a LoRA starts at 0, which would hide what A does."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def loss_and_gradient(tiny, examples, machine, attach, fused, **changes):
    model, tokenizer = tiny(max_position_embeddings=1024, **changes)
    torch.manual_seed(0)
    model = stirred(attach(model, tokenizer))
    vars(model)[layout.FOUND] = {"packed": "", "head": ""}  # whatever a method mixes: both ways read one row
    if fused:
        layers.install(model)
    torch.manual_seed(1)
    loss = loss_of(model, examples, 256, dataclasses.replace(machine, fused=fused))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def assert_same(tiny, examples, machine, attach, **changes):
    plain, ours = (loss_and_gradient(tiny, examples, machine, attach, fused, **changes) for fused in (False, True))
    assert ours[0] == pytest.approx(plain[0], rel=1e-6)
    assert torch.norm(plain[1] - ours[1]) <= 1e-5 * torch.norm(plain[1])


@pytest.mark.parametrize("changes", ARCHITECTURES, ids=lambda changes: changes.get("model_type", "llama"))
@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_the_gradient_is_that_of_the_plain_modules(tiny, long, fp32, name, changes):
    assert_same(tiny, long, fp32, METHODS[name]().attach, **changes)


@pytest.mark.parametrize(
    "targets", [("q_proj",), ("k_proj", "v_proj"), ("o_proj", "up_proj"), ("down_proj", "lm_head")]
)
def test_a_lora_may_stand_beside_any_linear_layer(tiny, encoded, fp32, targets):
    assert_same(tiny, encoded, fp32, METHODS["lora"](targets=targets, rank=3).attach, tie_word_embeddings=False)


def test_dropout_in_a_lora_is_drawn_as_peft_draws_it(tiny, encoded, fp32):
    assert_same(tiny, encoded, fp32, METHODS["lora"](dropout=0.5).attach)


def norms(model, tokenizer):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    return model


def biases(model, tokenizer):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return model


def one_weight(model, tokenizer):
    model.requires_grad_(False).model.layers[1].self_attn.k_proj.weight.requires_grad_(True)
    return model


class Doubled(nn.Module):
    """What a method puts around a linear layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.full((), 2.0))

    def forward(self, x):
        return self.inner(x) * self.scale


def wrapped(model, tokenizer):
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.k_proj = Doubled(layer.self_attn.k_proj)
        layer.mlp.down_proj = Doubled(layer.mlp.down_proj)
    return model


def hooked(model, tokenizer):
    model.requires_grad_(False)
    scale = model.scale = nn.Parameter(torch.full((), 2.0))
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, found: found * scale)
    return model


def patched(model, tokenizer):
    model.requires_grad_(False)
    scale = model.scale = nn.Parameter(torch.full((), 2.0))
    for module in (model.model.layers[0].mlp, model.model.layers[1].self_attn.v_proj, model.model.norm):
        module.forward = lambda x, before=module.forward: before(x) * scale
    return model


@pytest.mark.parametrize("attach", [norms, biases, one_weight, wrapped, hooked, patched])
def test_what_a_method_of_another_kind_trains_gets_its_gradient(tiny, encoded, fp32, attach):
    assert_same(tiny, encoded, fp32, attach, attention_bias=True, mlp_bias=True)


def listened(where):
    """A method that reads, of all tokens, what the module `where` is given."""

    def attach(model, tokenizer):
        model.requires_grad_(False)
        scale = model.scale = nn.Parameter(torch.full((), 2.0))
        model.get_submodule(where).register_forward_pre_hook(
            lambda module, given: (given[0] + scale * given[0].mean(),)
        )
        return model

    return attach


class Mixing(nn.Module):
    """A unit whose output for a token depends on all others."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.full((), 2.0))

    def forward(self, x):
        found = self.inner(x)
        return found + self.scale * found.mean(dim=1, keepdim=True)


def mixed(where):
    def attach(model, tokenizer):
        model.requires_grad_(False)
        parent, name = where.rsplit(".", 1)
        setattr(model.get_submodule(parent), name, Mixing(model.get_submodule(where)))
        return model

    return attach


def listened_inside(model, tokenizer):
    """A method that listens to a linear layer before it puts a LoRA beside it."""
    scale = nn.Parameter(torch.full((), 2.0))
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda module, given, found: found * scale)
    model = METHODS["lora"]().attach(model, tokenizer)
    model.scale = scale
    return model


def listened_beside(model, tokenizer):
    model = METHODS["lora"]().attach(model, tokenizer)
    scale = model.scale = nn.Parameter(torch.full((), 2.0))
    up = model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"]
    up.register_forward_hook(lambda module, given, found: found * scale)
    return model


class Swish(nn.SiLU):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.full((), 2.0))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


def learned_unit(model, tokenizer):
    model.requires_grad_(False).model.layers[0].mlp.act_fn = Swish()
    return model


def hooked_unit(model, tokenizer):
    model.requires_grad_(False)
    scale = model.scale = nn.Parameter(torch.full((), 2.0))
    model.model.layers[0].mlp.act_fn.register_forward_hook(lambda module, given, found: found * scale)
    return model


def last_twice(model, tokenizer):
    """A method that passes through the last layer twice."""
    norms(model, tokenizer).model.layers.append(model.model.layers[-1])
    model.config.num_hidden_layers += 1
    return model


@pytest.mark.parametrize("attach", [listened_inside, listened_beside, learned_unit, hooked_unit, last_twice])
def test_what_a_method_hides_inside_a_module_is_called_as_it_is(tiny, encoded, fp32, attach):
    assert_same(tiny, encoded, fp32, attach)


def test_a_forward_that_a_method_patches_in_the_class_is_called(tiny, encoded, fp32, monkeypatch):
    kind = type(tiny()[0].model.layers[0])
    before = kind.forward

    def forward(self, hidden_states, *others, **keywords):
        return before(self, hidden_states + hidden_states.mean(), *others, **keywords)

    monkeypatch.setattr(kind, "forward", forward)
    assert_same(tiny, encoded, fp32, norms)


def test_hidden_states_of_all_tokens_are_computed_where_they_are_asked_for(tiny, encoded, fp32):
    model, _ = tiny()
    layers.install(model)
    found, before = [], model.forward

    def forward(*given, **keywords):
        answer = before(*given, output_hidden_states=True, **keywords)
        found.append(answer.hidden_states[-1])
        return answer

    model.forward = forward
    loss_of(model, encoded, 256, fp32)
    assert found[0].ne(0).any(-1).all()


LAST = "model.layers.1"


@pytest.mark.parametrize("kind", [listened, mixed])
@pytest.mark.parametrize(
    "where", ["model.norm", f"{LAST}.mlp", f"{LAST}.mlp.up_proj", f"{LAST}.self_attn.o_proj",
              f"{LAST}.post_attention_layernorm"]
)  # fmt: skip
def test_where_a_method_mixes_tokens_after_the_last_attention_all_of_them_are_computed(
    tiny, encoded, fp32, kind, where
):
    assert_same(tiny, encoded, fp32, kind(where))


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "full"])
def test_the_last_layers_unit_is_given_the_tokens_whose_logits_are_wanted_and_no_other(tiny, encoded, fp32, name):
    model, tokenizer = tiny()
    model = METHODS[name]().attach(model, tokenizer)
    layout.settle(model, [], packing=True)
    layers.install(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    given = [[] for _ in inner.model.layers]
    for layer, sizes in zip(inner.model.layers, given, strict=True):
        before = layer.mlp.forward
        layer.mlp.forward = lambda x, before=before, sizes=sizes: sizes.append(x.shape[1]) or before(x)
    loss_of(model, encoded, 256, fp32)
    virtual = 0 if name != "soft-prompt" else model.active_peft_config.num_virtual_tokens * len(encoded)
    assert given == [[sum(len(example.ids) for example in encoded) + virtual],
                     [sum(len(example.ids) - example.prompt for example in encoded)]]  # fmt: skip


def test_a_call_without_documents_is_transformers_own(tiny):
    model, _ = tiny()
    ids = torch.arange(20).view(2, 10)
    plain = model(input_ids=ids).logits
    layers.install(model)
    assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-6)


def test_parameters_keep_their_names_values_and_bytes(tiny):
    model, _ = tiny()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    layers.install(model.requires_grad_(False))
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    query, key = (after[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qk")
    assert query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()


@pytest.mark.parametrize("count", [1, 7, 8, 21, ROWS + 3])
@pytest.mark.parametrize("trained", ["hidden", "weight", "both", "neither"])
def test_the_heads_loss_and_gradient_are_those_of_torch(count, trained):
    torch.manual_seed(count)
    hidden, weight, labels = torch.randn(count, 6), torch.randn(50, 6), torch.randint(0, 50, (count,))
    given = [hidden.requires_grad_(trained in ("hidden", "both")), weight.requires_grad_(trained in ("weight", "both"))]
    wanted = [tensor for tensor in given if tensor.requires_grad]
    ours = CrossEntropy.apply(hidden, weight, labels, bool(wanted))
    theirs = nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    if wanted:
        for a, b in zip(torch.autograd.grad(ours / 3, wanted), torch.autograd.grad(theirs / 3, wanted), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_a_head_whose_logits_are_huge_has_a_finite_loss():
    loss = CrossEntropy.apply(
        torch.tensor([[1e4, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1]), False
    )
    assert loss.item() == pytest.approx(2e4)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_texts_are_those_of_the_plain_modules(tiny, encoded, fp32, name):
    texts = []
    for fused in (False, True):
        model, tokenizer = tiny()
        torch.manual_seed(0)
        model = stirred(METHODS[name]().attach(model, tokenizer))
        if fused:
            layers.install(model)
        prompts = [example.ids[: example.prompt] for example in encoded]
        texts.append(summarise(model, tokenizer, prompts, 12, GenerationSettings(batch_size=3), fp32))
    assert texts[0] == texts[1]


def test_bf16_is_chosen_where_the_processor_multiplies_it_and_not_where_a_library_widens_it(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not has_bf16("cpu")  # AVX512 alone, for which oneDNN says yes


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if has_bf16("cpu") else ["fp32"])
@pytest.mark.parametrize("name", ["lora", "last-layer", "full"])
@pytest.mark.parametrize("tokens", [5, BLOCK + 1])
def test_weights_in_the_processors_order_give_the_same_logits_and_go_away(tiny, fp32, name, precision, tokens):
    machine = dataclasses.replace(fp32, precision=precision)
    model, tokenizer = tiny(attention_bias=True)
    model = stirred(METHODS[name]().attach(model, tokenizer)).eval()
    layers.install(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    block = inner.model.layers[0]
    x = torch.randn(1, tokens, 32)
    plain = [layers.product(block.self_attn, layers.QKV, x), layers.product(block.mlp, layers.UNIT, x)]
    with writing(model, machine):
        assert layers.DECODING_WEIGHTS in vars(block.self_attn) and layers.DECODING_WEIGHTS in vars(block.mlp)
        low = x.bfloat16() if precision == "bf16" else x
        ours = [layers.product(block.self_attn, layers.QKV, low), layers.product(block.mlp, layers.UNIT, low)]
        assert "forward" in vars(inner.lm_head)
    assert layers.DECODING_WEIGHTS not in vars(block.self_attn) and "forward" not in vars(inner.lm_head)
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a.float(), b, atol=0.03 if precision == "bf16" else 1e-6)


def test_the_quicker_attention_is_one_of_the_two_with_its_seconds(fp32):
    choice, seconds = quicker(fp32, length=16, times=3)
    assert set(seconds) == {"eager", "sdpa"} and choice == min(seconds, key=seconds.get)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": 3}', "\x00"])
def test_the_choice_is_timed_once_and_a_file_that_was_not_written_so_is_written_anew(
    tmp_path, fp32, monkeypatch, damage
):
    answers = iter([("sdpa", {}), ("eager", {})])
    monkeypatch.setattr("bakeoff.engine.timing.quicker", lambda machine: next(answers))
    file = tmp_path / "machine.json"
    assert [remembered(file, fp32) for _ in range(3)] == ["sdpa"] * 3
    file.write_text(damage)
    assert [remembered(file, fp32) for _ in range(3)] == ["eager"] * 3
