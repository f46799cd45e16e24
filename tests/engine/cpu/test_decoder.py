"""A decoder layer in two calls around its attention: the figures of torch's operators, and when it is not taken."""

import dataclasses
from pathlib import Path

import pytest
import torch
from computing import products_in, writing
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from bakeoff.config.hardware import has_bf16
from bakeoff.engine import layout, packed
from bakeoff.engine.attention import Documents, forward, row_logits
from bakeoff.engine.cache import Cache, Prefill, Step
from bakeoff.engine.cpu import decoder, head, layers, native, packed_weights
from bakeoff.engine.cpu.compiler import NoCompiler
from bakeoff.engine.decoding import decode
from bakeoff.methods.selection import select

METHODS = {entry.name: entry.kind for entry in select(["all"])}


TILES = "amx_bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
ONEDNN = pytest.mark.skipif(not has_bf16("cpu"), reason="oneDNN multiplies no bf16 on this processor")
"""Of cases in which a product is left to it while a summary is written."""

# Plain C takes a minute of a processor for what tiles do in seconds.
pytestmark = [] if TILES else [pytest.mark.slow]


@pytest.fixture(autouse=True)
def tiles(libraries, monkeypatch):
    """The compiled kernels, layer.c among them: by tiles where the processor has them, else by plain C."""
    try:
        native.build(libraries)
        native.kernels_for(torch.zeros(1, dtype=torch.bfloat16)).tiles = True
        monkeypatch.setattr(packed_weights, "has_bf16", lambda device: True)
        yield
    except NoCompiler as missing:
        pytest.skip(f"layer.c can't be compiled: {missing}")
    finally:
        native.close()


BROAD = 1024 if TILES else 256
"""Plain C takes its time."""
SIZES = [
    {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 544},
    {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 32},
    {"hidden_size": BROAD, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 32},
]
"""A chunk of the unit and a rest, heads that are wider together than a token, a token so wide that blocks are short."""


def model_of(sizes, attach=lambda model: model.requires_grad_(False)):
    """In fp32, with weights large enough that every part counts; `attach` says what is trained."""
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=64, num_hidden_layers=3, max_position_embeddings=1024, **sizes)
    model = LlamaForCausalLM(config).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "proj" in name or "embed" in name:
            parameter.data.normal_(0, 1.5 * parameter.shape[1] ** -0.5 if "proj" in name else 1.0)
        elif "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return attach(model)


def lora(*targets, rank=6):
    def attach(model):
        model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=9, target_modules=list(targets)))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.2)
        return model

    return attach


def learning(model):
    """All of it, as `full` has it."""
    return model.requires_grad_(True)


def prepared(model, machine, lengths):
    """A generator and the tokens of documents; the model's frozen weights are in the run's precision afterwards."""
    layout.settle(model, [], packing=True)
    if machine.precision == "bf16":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    layers.install(model)
    draw = torch.Generator().manual_seed(3)
    return draw, torch.randint(0, 64, (1, sum(lengths)), generator=draw)


def computed(model, machine, lengths):
    """Logits of documents, the gradients of embeddings and of what is trained, by the modules as they are replaced."""
    draw, ids = prepared(model, machine, lengths)
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
    keep = torch.rand(ids.shape, generator=draw) < 0.3
    with products_in(machine):
        logits = forward(model, Documents(lengths), lengths, keep, inputs_embeds=inputs)
    logits.float().logsumexp(1).square().sum().backward()
    trained = [parameter.grad.float().flatten() for parameter in model.parameters() if parameter.grad is not None]
    return logits.detach().float(), inputs.grad.float(), torch.cat([*trained, torch.zeros(1)])


@pytest.fixture()
def calls(monkeypatch):
    """Tokens behind the heads of each layer that was computed in two calls."""
    found = []
    plain = decoder.Layer.post_attention
    monkeypatch.setattr(
        decoder.Layer, "post_attention", lambda layer, x, *given: found.append(len(x)) or plain(layer, x, *given)
    )
    return found


@pytest.mark.parametrize("attach", [lora("q_proj", "v_proj"), lora("k_proj", rank=40), lambda model: model])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("lengths", [[129], [40, 300, 1, 77]])
def test_logits_and_gradients_are_no_further_from_those_in_fp32_than_torch_s(fp32, calls, sizes, lengths, attach):
    bf16 = dataclasses.replace(fp32, precision="bf16")
    ours = computed(model_of(sizes, attach), bf16, lengths)
    assert calls[:2] == [sum(lengths)] * 2 and calls[2:] == [len(ours[0])]
    native.close()
    theirs, exact = (computed(model_of(sizes, attach), machine, lengths) for machine in (bf16, fp32))
    assert len(calls) == 3
    for own, other, right in zip(ours, theirs, exact, strict=True):
        assert torch.norm(own - right) <= 1.15 * torch.norm(other - right) <= 0.2 * torch.norm(right)


def written(model, machine, lengths, new=3):
    """Logits of prompts' last tokens and of `new` tokens behind each, one after another, as summaries are written."""
    draw, ids = prepared(model, machine, lengths)
    tokens = torch.randint(0, 64, (new, 1, len(lengths)), generator=draw)
    keep = torch.zeros(ids.shape, dtype=torch.bool)
    keep[0, torch.tensor(lengths).cumsum(0) - 1] = True
    cache = Cache(len(lengths), max(lengths) + new)
    with writing(model, machine):
        found = [row_logits(model, ids, lengths, keep, lambda some: Prefill(some, cache, range(len(lengths))))]
        for number, last in enumerate(tokens):
            there = [length + number for length in lengths]
            step = Step(cache, there, "cpu")
            found.append(forward(model, step, there, 0, torch.tensor([there]), input_ids=last))
    return torch.cat(found).float()


@pytest.mark.parametrize("attach", [lora("q_proj", "v_proj"), lora("k_proj", rank=40), lambda model: model, learning])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("lengths", [[129], [40, 300, 1, 77], [60, 3]])
def test_what_is_written_is_no_further_from_that_in_fp32_than_torch_s(
    fp32, calls, monkeypatch, sizes, lengths, attach
):  # fmt: skip
    bf16 = dataclasses.replace(fp32, precision="bf16")
    ours = written(model_of(sizes, attach), bf16, lengths)
    assert calls == [sum(lengths)] * 2 + [len(lengths)]
    native.close()
    monkeypatch.setattr(packed_weights, "has_bf16", has_bf16)  # oneDNN takes bf16 from some processors alone
    theirs, exact = (written(model_of(sizes, attach), machine, lengths) for machine in (bf16, fp32))
    # Of four tokens, so that luck counts.
    assert torch.norm(ours - exact) <= 1.4 * torch.norm(theirs - exact) <= 0.3 * torch.norm(exact)


@pytest.mark.parametrize("attach", [lora("q_proj", "v_proj"), lambda model: model, learning])
def test_no_bit_depends_on_what_is_written_together(fp32, monkeypatch, attach):
    """Prompts are read together, and one by one as rows get free; 40 rows take more than one block of tiles."""
    bf16, found = dataclasses.replace(fp32, precision="bf16"), []
    model = model_of(SIZES[0], attach)
    draw, _ = prepared(model, bf16, [1])
    prompts = [torch.randint(0, 64, (3 + 5 * number,), generator=draw).tolist() for number in range(48)]
    plain = packed.highest

    def pick(rows):
        found.extend(rows.float().numpy())
        return plain(rows)

    seen = []
    for rows, some in ((40, prompts), (3, prompts[::5]), (1, prompts[7:8])):
        with writing(model, bf16):
            texts = decode(model, some, 5, rows, (), pick, bf16)
        seen.append(({row.tobytes() for row in found}, dict(zip(map(tuple, some), texts, strict=True))))
        found.clear()
    for logits, texts in seen[1:]:
        assert logits <= seen[0][0] and texts.items() <= seen[0][1].items()


def trained_norm(model):
    model.model.layers[1].input_layernorm.weight.requires_grad_()
    return model


def trained_weight(model):
    model.model.layers[1].mlp.up_proj.weight.requires_grad_()
    return model


def hooked(model):
    model.model.layers[1].mlp.register_forward_hook(lambda module, given, out: out * 2)
    return model


def patched(model):
    unit = model.model.layers[1].mlp
    plain = unit.forward
    unit.forward = lambda x: plain(x) * 2
    return model


def biased(model):
    layer = model.model.layers[1].self_attn
    layer.o_proj = nn.Linear(layer.o_proj.in_features, layer.o_proj.out_features)
    layer.o_proj.requires_grad_(False)
    return model


def stretched(model):
    """A unit of a size that fills no panel."""
    unit = model.model.layers[1].mlp
    torch.manual_seed(8)
    for name, outputs, inputs in (("gate_proj", 40, 96), ("up_proj", 40, 96), ("down_proj", 96, 40)):
        setattr(unit, name, nn.Linear(inputs, outputs, bias=False).requires_grad_(False))
    return model


def pruned(model):
    """A unit with fewer rows and columns of its weights than its layers say."""
    unit = model.model.layers[1].mlp
    for layer in (unit.gate_proj, unit.up_proj):
        layer.weight = nn.Parameter(layer.weight[:500].clone(), requires_grad=False)
    unit.down_proj.weight = nn.Parameter(unit.down_proj.weight[:, :500].clone(), requires_grad=False)
    return model


def turned(model):
    """A learning weight whose columns stand one after another."""
    model.requires_grad_(True)
    weight = model.model.layers[1].self_attn.o_proj.weight
    weight.data = weight.data.t().contiguous().t()
    return model


def stepped(model, groups, x, lengths, threads=1):
    """What layers make of a token for each row of a cache that holds other tokens, so many layers in a call."""
    modules, at = model.get_submodule("base_model.model.model" if hasattr(model, "peft_config") else "model").layers, 0
    width, heads = modules[0].self_attn.head_dim, model.config.num_key_value_heads
    cache = Cache(len(lengths), max(lengths) + 1)
    for place in range(len(modules)):
        for tensor in cache.of(place, x.new_empty(heads, 0, width)):
            for row, length in enumerate(lengths):
                draw = torch.Generator().manual_seed(99 * place + row)
                tensor[row, :, :length] = torch.randn(heads, length, width, generator=draw)
    angles = torch.rand(len(lengths), 2, 1, width, generator=torch.Generator().manual_seed(4)).bfloat16()
    cos, sin = (part.contiguous() for part in angles.unbind(1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for size in groups:
        run = [layers.whole(module, x[None]) for module in modules[at : at + size]]
        x, at = decoder.Steps(run)(x, Step(cache, lengths, "cpu"), cos, sin), at + size
    torch.set_num_threads(before)
    return x, torch.cat([tensor.flatten() for layer in cache.layers.values() for tensor in layer])


@pytest.mark.parametrize("attach", [lora("q_proj", "v_proj"), lora("k_proj", rank=40), lambda model: model])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_step_through_all_layers_is_that_through_one_after_another_whatever_the_threads(fp32, sizes, attach):
    model = model_of(sizes, attach)
    prepared(model, dataclasses.replace(fp32, precision="bf16"), [1])
    lengths = [0, 31, 32, 70, *range(40)]
    x = torch.randn(len(lengths), sizes["hidden_size"], generator=torch.Generator().manual_seed(2)).bfloat16()
    at_once = stepped(model, [3], x, lengths)
    for groups, threads in (([1, 1, 1], 1), ([1, 2], 2), ([3], 3)):
        assert all(map(torch.equal, stepped(model, groups, x, lengths, threads), at_once))
    few = stepped(model, [3], x[:5], lengths[:5])
    assert torch.equal(few[0], at_once[0][:5]) and not torch.equal(few[0], x[:5])


@pytest.mark.parametrize(
    "attach", [hooked, pytest.param(biased, marks=ONEDNN), learning, lambda model: model],
    ids=["hooked", "biased", "learning", "plain"],
)  # fmt: skip
def test_a_step_is_taken_in_one_call_through_layers_that_compute_as_replaced(fp32, monkeypatch, attach):
    taken, plain = [], decoder.Steps.__call__
    monkeypatch.setattr(
        decoder.Steps, "__call__", lambda own, *given: taken.append(len(own.layers)) or plain(own, *given)
    )
    model = model_of(SIZES[0], attach)
    written(model, dataclasses.replace(fp32, precision="bf16"), [20, 3], new=2)
    assert taken == ([3] * 2 if attach not in (hooked, biased) else [1] * 4)
    assert not any(layers.STEPS in vars(module) for module in model.modules())


def test_a_step_refuses_other_numbers(fp32):
    model = model_of(SIZES[0])
    prepared(model, dataclasses.replace(fp32, precision="bf16"), [1])
    x, cache = torch.zeros(2, 96).bfloat16(), Cache(2, 8)
    for place in range(3):
        cache.of(place, x.new_empty(1, 0, 32))
    steps = decoder.Steps([layers.whole(module, x[None]) for module in model.model.layers])
    turn = torch.ones(2, 1, 32).bfloat16()
    step = Step(cache, [3, 4], "cpu")
    assert steps(x, step, turn, turn).shape == x.shape
    for rows, some, angles in (
        (x[:1], step, turn),
        (x[:, :64], step, turn),
        (x, step, turn[:1]),
        (x, step, turn[..., :16]),
    ):
        with pytest.raises(ValueError, match="layers are given"):
            steps(rows, some, angles, angles)
    with pytest.raises(ValueError, match="don't fit"):
        steps(x, Step(cache, [3, 32], "cpu"), turn, turn)
    with pytest.raises(TypeError, match=r"a step brings torch.float32"):
        steps(x.float(), step, turn, turn)


def test_no_token_depends_on_the_number_of_threads_nor_on_its_block():
    model = model_of(SIZES[2], lora("q_proj", "v_proj"))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    layers.install(model)
    module, before = model.get_base_model().model.layers[0], torch.get_num_threads()
    x, *given = (torch.randn(701, BROAD).bfloat16() for _ in range(3))
    seen, of_rows = (torch.randn(heads, 701, BROAD // 8).bfloat16() for heads in (8, 24))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        layer = layers.whole(module, x[None])
        rows, *before_it = layer.pre_attention(x)
        out, *after_it = layer.post_attention(x, seen, True)
        of_x, of_thin = layer.pre_attention_backward(of_rows, given[0], x, *before_it)
        found.append(((rows, out, of_x, *layer.post_attention_backward(given[1], *after_it)), of_thin))
    torch.set_num_threads(before)
    for tokens, thin in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(tokens, found[0][0], strict=True))
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(thin, found[0][1], strict=True))


def test_the_same_again_is_bit_identical(fp32):
    bf16 = dataclasses.replace(fp32, precision="bf16")
    first, second = (computed(model_of(SIZES[0], lora("q_proj", "v_proj")), bf16, [300, 401]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


OTHERS = [trained_norm, trained_weight, hooked, patched, biased, stretched, pruned]


@pytest.mark.parametrize("attach", OTHERS, ids=lambda attach: attach.__name__)
def test_a_layer_in_which_a_method_computes_is_left_to_its_modules_and_the_others_are_not(fp32, calls, attach):
    bf16 = dataclasses.replace(fp32, precision="bf16")
    ours = computed(model_of(SIZES[0], attach), bf16, [200])
    assert len(calls) == 2
    exact = computed(model_of(SIZES[0], attach), fp32, [200])
    for own, right in zip(ours, exact, strict=True):
        assert torch.norm(own - right) <= 0.2 * torch.norm(right)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_a_method_puts_around_a_layer_later_is_asked(fp32, calls, place):
    bf16, model = dataclasses.replace(fp32, precision="bf16"), model_of(SIZES[0])
    computed(model, bf16, [200])
    layer = model.model.layers[place]
    plain, given = layer.forward, []
    layer.forward = lambda x, **others: given.append(x) or plain(x, **others) * 2
    calls.clear()
    inputs = model.get_input_embeddings()(torch.zeros(1, 200, dtype=torch.long))
    logits = forward(model, Documents([200]), [200], torch.ones(1, 200, dtype=torch.bool), inputs_embeds=inputs)
    assert len(given) == 1 and len(calls) == 2  # the wrapped layer is computed by its modules
    layer.forward = plain
    layer.register_forward_hook(lambda module, given, out: out * 2)
    again = forward(model, Documents([200]), [200], torch.ones(1, 200, dtype=torch.bool), inputs_embeds=inputs)
    assert torch.norm(logits - again) <= 0.05 * torch.norm(again)


def repeated(model):
    model.model.layers[2] = model.model.layers[0]


def shortened(model):
    model.config.num_hidden_layers = 2


def cut(model):
    model.model.layers = model.model.layers[:1]


def twice(model):
    trunk = model.model
    plain = trunk.forward

    def forward(**given):
        given["inputs_embeds"] = plain(**given).last_hidden_state
        return plain(**given)

    trunk.forward = forward


@pytest.mark.parametrize("change", [repeated, shortened, cut, twice], ids=lambda change: change.__name__)
@pytest.mark.parametrize("when", ["before", "after"])
def test_layers_that_are_called_otherwise_than_one_after_another_are_computed_so(fp32, calls, change, when):
    def logits(machine):
        model = model_of(SIZES[0])
        change(model) if when == "before" else None
        computed(model, machine, [200])
        change(model) if when == "after" else None
        inputs = model.get_input_embeddings()(torch.arange(200).remainder(64)[None])
        given = {"inputs_embeds": inputs, "keep": torch.ones(1, 200, dtype=torch.bool)}
        segments = Documents([200])  # the same again: nothing of the first time may count
        found = [forward(model, segments, [200], **given) for _ in range(2)]
        assert torch.equal(*found)
        return found[0].float()

    ours, exact = logits(dataclasses.replace(fp32, precision="bf16")), logits(fp32)
    assert (calls or change in (twice, repeated)) and torch.norm(ours - exact) <= 0.2 * torch.norm(exact)


def unscaled(model):
    model.model.layers[1].input_layernorm = nn.Identity()


def sharing(model):
    model.model.layers[1].mlp = model.model.layers[0].mlp


@pytest.mark.parametrize(
    "change", [unscaled, sharing, pytest.param(pruned, marks=ONEDNN), turned], ids=lambda change: change.__name__
)
def test_what_a_method_made_of_a_layer_is_written_with(fp32, change):
    def attach(model):
        change(model)
        return model

    ours = written(model_of(SIZES[0], attach), dataclasses.replace(fp32, precision="bf16"), [200])
    exact = written(model_of(SIZES[0], attach), fp32, [200])
    assert torch.norm(ours - exact) <= 0.1 * torch.norm(exact)


def test_weights_that_change_behind_autograd_s_back_are_read_anew_when_it_writes_again(fp32):
    model = model_of(SIZES[0])
    bf16 = dataclasses.replace(fp32, precision="bf16")
    before = written(model, bf16, [200])
    assert not any(decoder.WEIGHTS in vars(module) for module in model.modules())
    model.model.layers[1].mlp.down_proj.weight.data.mul_(3)
    assert not torch.allclose(written(model, bf16, [200]), before, rtol=0.1)


def test_what_a_gradient_needs_may_not_change_before_it(fp32):
    model = model_of(SIZES[0])
    computed(model, dataclasses.replace(fp32, precision="bf16"), [200])
    inputs = model.get_input_embeddings()(torch.zeros(1, 200, dtype=torch.long)).requires_grad_() * 1
    logits = forward(model, Documents([200]), [200], torch.ones(1, 200, dtype=torch.bool), inputs_embeds=inputs)
    with torch.no_grad():
        inputs.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()


@pytest.mark.parametrize("attach", [lora("q_proj", "v_proj"), lora("k_proj", rank=40)])
def test_where_nobody_wants_the_gradient_of_the_first_input_the_others_are_the_same(fp32, attach):
    model = model_of(SIZES[0], attach)
    machine = dataclasses.replace(fp32, precision="bf16")
    computed(model, machine, [200, 33])
    keep = torch.ones(1, 233, dtype=torch.bool)
    found = []
    for wanted in (True, False):
        model.zero_grad()
        inputs = model.get_input_embeddings()(torch.arange(233).remainder(64)[None]).detach().requires_grad_(wanted)
        with products_in(machine):
            logits = forward(model, Documents([200, 33]), [200, 33], keep, inputs_embeds=inputs)
        logits.float().logsumexp(1).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert found[0] and all(map(torch.equal, *found))


def test_a_gradient_is_asked_for_once(fp32):
    bf16, model = dataclasses.replace(fp32, precision="bf16"), model_of(SIZES[0])
    computed(model, bf16, [200])
    inputs = model.get_input_embeddings()(torch.zeros(1, 200, dtype=torch.long)).requires_grad_()
    logits = forward(model, Documents([200]), [200], torch.ones(1, 200, dtype=torch.bool), inputs_embeds=inputs)
    logits.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="it can be asked for once"):
        logits.sum().backward()


@pytest.mark.parametrize("target", ["o_proj", "gate_proj", "down_proj"])
def test_a_lora_behind_the_heads_is_left_to_the_modules(fp32, calls, target):
    computed(model_of(SIZES[0], lora("q_proj", target)), dataclasses.replace(fp32, precision="bf16"), [200])
    assert not calls


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"])
def test_weights_that_change_are_read_anew_and_forgotten_where_nothing_says_that_they_changed(fp32, name):
    bf16 = dataclasses.replace(fp32, precision="bf16")
    model = model_of(SIZES[0])
    before = computed(model, bf16, [200])[0]
    weight = model.model.layers[0].get_submodule(name).weight
    with torch.no_grad():
        weight.mul_(2)
    after = computed(model, bf16, [200])[0]
    assert not torch.equal(before, after)
    weight.data.div_(2)
    decoder.forget(model)
    assert torch.equal(computed(model, bf16, [200])[0], before)
    assert any(decoder.WEIGHTS in vars(module) for module in model.modules())


def test_a_number_that_is_none_stays_in_its_document(fp32):
    model = model_of(SIZES[0])
    computed(model, dataclasses.replace(fp32, precision="bf16"), [200])
    inputs = torch.randn(1, 400, 96, generator=torch.Generator().manual_seed(3)).bfloat16()
    spoilt = inputs.clone()
    spoilt[0, 7, 5] = torch.nan
    keep = torch.ones(1, 400, dtype=torch.bool)
    with torch.no_grad():
        right, found = (
            forward(model, Documents([200] * 2), [200] * 2, keep, inputs_embeds=x) for x in (inputs, spoilt)
        )
    assert found[7:200].isnan().all() and torch.equal(found[200:], right[200:])


def test_panels_made_where_nothing_learns_serve_training(fp32):
    bf16, lengths = dataclasses.replace(fp32, precision="bf16"), [200]
    model = model_of(SIZES[0], lora("q_proj"))
    right = computed(model, bf16, lengths)
    decoder.forget(model)
    inputs = torch.zeros(1, 200, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        forward(model, Documents(lengths), lengths, torch.ones(1, 200, dtype=torch.bool), inputs_embeds=inputs)
    model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(computed(model, bf16, lengths), right, strict=True))


def test_where_no_logits_are_wanted_there_are_none(fp32, calls):
    bf16, model = dataclasses.replace(fp32, precision="bf16"), model_of(SIZES[0])
    computed(model, bf16, [200])
    inputs = model.get_input_embeddings()(torch.zeros(1, 200, dtype=torch.long)).requires_grad_()
    nothing = torch.zeros(1, 200, dtype=torch.bool)
    logits = forward(model, Documents([200]), [200], nothing, inputs_embeds=inputs)
    logits.sum().backward()
    assert calls[-1] == 0 and logits.shape == (0, 64) and not inputs.grad.any()


@pytest.mark.parametrize(("rows", "width", "words"), [(1, 32, 32), (40, 96, 544), (301, 1056, 1600), (13000, 32, 64)])
def test_a_heads_logits_and_their_gradient_are_no_further_from_the_exact_than_torch_s(rows, width, words):
    draw = torch.Generator().manual_seed(rows)
    hidden, weight, given = (
        torch.randn(size, generator=draw).bfloat16() for size in ((rows, width), (words, width), (rows, words))
    )
    before, ours = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        ours.append((head.logits(hidden, weight), head.logits_backward(given, weight)))
    torch.set_num_threads(before)
    assert head.tiled(hidden, weight) and all(map(torch.equal, ours[0] * 2, ours[1] + ours[2]))
    native.close()
    assert not head.tiled(hidden, weight)
    theirs = head.logits(hidden, weight), head.logits_backward(given, weight)
    exact = hidden.double() @ weight.double().t(), given.double() @ weight.double()
    for own, other, right in zip(ours[0], theirs, exact, strict=True):
        assert torch.norm(own - right) <= 1.01 * torch.norm(other - right)


def test_a_head_of_any_other_size_is_left_to_torch():
    assert not head.tiled(torch.zeros(4, 32).bfloat16(), torch.zeros(50, 32).bfloat16())
    assert not head.tiled(torch.zeros(4, 48).bfloat16(), torch.zeros(64, 48).bfloat16())
    assert not head.tiled(torch.zeros(4, 32), torch.zeros(64, 32))
