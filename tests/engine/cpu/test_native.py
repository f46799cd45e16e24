"""The compiled kernels: the figures of torch's operators for any number of threads, and what happens without GCC."""

import ctypes
import dataclasses
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from computing import loss_of
from torch.nn import functional

from bakeoff.config.hardware import has_bf16
from bakeoff.core.errors import UsageError
from bakeoff.engine.attention import Documents
from bakeoff.engine.cache import Cache, Prefill, Step
from bakeoff.engine.cpu import compiler, layers, native, packed_weights
from bakeoff.engine.cpu.compiler import NoCompiler
from bakeoff.engine.cpu.head import CrossEntropy
from bakeoff.engine.cpu.kernels import CompiledAttention
from bakeoff.engine.linear import LoraPair
from bakeoff.methods.selection import select

METHODS = {entry.name: entry.kind for entry in select(["all"])}
KINDS = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def compiled(libraries):
    """The kernels, compiled once."""
    try:
        yield native.build(libraries)
    except NoCompiler as missing:
        pytest.skip(f"the kernels can't be compiled: {missing}")
    finally:
        native.close()


def close(ours, theirs):
    """Within the rounding of the type of `ours`, of the largest figure."""
    step = 2e-6 if ours.dtype == torch.float32 else 2**-7
    return (ours.double() - theirs.double()).abs().max() <= step * max(1.0, theirs.double().abs().max().item())


def drawn(*shape, kind, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * scale).to(kind)


SHAPES = [
    ([5, 1, 33, 200], 9, 3, 64),
    ([40, 0, 70], 4, 4, 32),
    ([131], 8, 1, 128),
    ([64, 32, 31], 4, 2, 80),
    ([7], 34, 2, 6),
]
"""Tokens of documents, heads, key heads, width: groups of 1 and more, widths that fill a processor's tile and don't."""


def asked(lengths, heads, n_kv_heads, width, kind):
    """Queries, keys and values of a row, and the cosines and sines of its positions."""
    angles = torch.rand(sum(lengths), width // 2, generator=torch.Generator().manual_seed(1)) * 6
    angles = torch.cat([angles, angles], dim=1)
    return (
        drawn(sum(lengths), (heads + 2 * n_kv_heads) * width, kind=kind),
        angles.cos().to(kind),
        angles.sin().to(kind),
    )


def plainly(rows, cos, sin, lengths, heads, n_kv_heads):
    """Turned keys, values, and what the heads see, by torch in fp64: tokens x heads x width each."""
    rows, cos, sin = rows.double(), cos.double()[:, None], sin.double()[:, None]
    both, value = rows.unflatten(1, (heads + 2 * n_kv_heads, -1)).split((heads + n_kv_heads, n_kv_heads), dim=1)
    first, second = both.chunk(2, dim=-1)
    both = both * cos + torch.cat([-second, first], dim=-1) * sin
    query, key = both.split((heads, n_kv_heads), dim=1)
    parts = zip(*(part.transpose(0, 1).split(lengths, dim=1) for part in (query, key, value)), strict=True)
    seen = [functional.scaled_dot_product_attention(*three, is_causal=True, scale=0.2, enable_gqa=True)
            for three in parts]  # fmt: skip
    return key, value, torch.cat(seen, dim=1).transpose(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lengths", "heads", "n_kv_heads", "width"), SHAPES)
def test_attention_and_its_gradient_are_those_of_torch(kind, lengths, heads, n_kv_heads, width):
    rows, cos, sin = asked(lengths, heads, n_kv_heads, width, kind)
    given = drawn(sum(lengths), heads, width, kind=kind)
    wide = rows.double().requires_grad_()
    theirs = plainly(wide, cos, sin, lengths, heads, n_kv_heads)[2]
    [gradient] = torch.autograd.grad(theirs, wide, given.double())
    rows.requires_grad_()
    ours = CompiledAttention.apply(rows, cos, sin, 0, Documents(lengths), n_kv_heads, 0.2, native.kernels_for(rows))
    [of_rows] = torch.autograd.grad(ours, rows, given)
    assert close(ours, theirs) and close(of_rows, gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lengths", "heads", "n_kv_heads", "width"), SHAPES)
def test_heads_that_stand_one_after_another_see_the_same_bit_for_bit(kind, lengths, heads, n_kv_heads, width):
    rows, cos, sin = asked(lengths, heads, n_kv_heads, width, kind)
    given, kernels, found = drawn(sum(lengths), heads, width, kind=kind), native.kernels_for(rows), Documents(lengths)
    by_head = rows.unflatten(1, (-1, width)).transpose(0, 1).contiguous()
    seen, gradients = [], []
    for some, outward in ((rows, given), (by_head, given.transpose(0, 1).contiguous())):
        logs = rows.new_empty(heads, len(rows), dtype=torch.float32)
        seen.append(found.from_rows(kernels, 0, some, cos, sin, n_kv_heads, 0.2, logs))
        gradients.append(found.of_rows(kernels, some, cos, sin, n_kv_heads, 0.2, logs, seen[-1], outward))
    assert torch.equal(seen[0], seen[1].transpose(0, 1))
    assert torch.equal(gradients[0], gradients[1].transpose(0, 1).flatten(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [-7, 1, 7])
def test_scores_far_apart_are_weighed_as_torch_weighs_them(kind, step):
    """Scores of a token rise or fall by 1.4 a key, up to 420: powers of their differences don't fit into fp32."""
    rows, cos, sin = asked([300], 2, 1, 8, kind)
    rows[:, :24], cos[:], sin[:] = 0, 1, 0
    rows[:, [0, 9]] = 1.0
    rows[:, 16] = torch.arange(300).to(kind) * step % 256  # a whole number that bf16 holds
    rows[:, 17] = torch.arange(300).mul(step).div(256, rounding_mode="floor").mul(256).to(kind)
    rows[:, [1, 8]] = 1.0
    given, wide = drawn(300, 2, 8, kind=kind), rows.double().requires_grad_()
    theirs = plainly(wide, cos, sin, [300], 2, 1)[2]
    [gradient] = torch.autograd.grad(theirs, wide, given.double())
    rows.requires_grad_()
    ours = CompiledAttention.apply(rows, cos, sin, 0, Documents([300]), 1, 0.2, native.kernels_for(rows))
    [of_rows] = torch.autograd.grad(ours, rows, given)
    assert close(ours, theirs)
    # A logarithm of 420 is 3e-5 off in fp32.
    off = (of_rows.double() - gradient)[:, 24:].abs().max() / gradient.abs().max()
    assert off <= max(1e-4, 2 * torch.finfo(kind).eps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("heads", "n_kv_heads", "width"), [(9, 3, 64), (4, 4, 32), (4, 2, 80), (34, 2, 6)])
def test_a_prompt_that_is_read_and_then_written_on_sees_what_it_would_see_at_once(kind, heads, n_kv_heads, width):
    """Prompts fill rows of a cache that an earlier document has used; then each row gets new tokens, one at a time."""
    lengths, new, cache = [31, 64, 3], 34, Cache(4, 98)
    whole = [length + new for length in lengths]
    rows, cos, sin = asked(whole, heads, n_kv_heads, width, kind)
    documents = list(zip(*(part.split(whole) for part in (rows, cos, sin)), strict=True))
    for tensor in cache.of(0, rows.new_empty(n_kv_heads, 0, width)):
        tensor.fill_(7.0)
    kernels = native.kernels_for(rows)
    prompts = (torch.cat([document[part][:length] for document, length in zip(documents, lengths, strict=True)])
               for part in range(3))  # fmt: skip
    read = Prefill(lengths, cache, [2, 0, 1]).from_rows(kernels, 0, *prompts, n_kv_heads, 0.2).split(lengths)
    seen = [[part] for part in read]
    for at in range(new):
        order = [1, 2, 0]  # row of the cache -> document
        tokens = [torch.stack([documents[d][part][lengths[d] + at] for d in order]) for part in range(3)]
        step = Step(cache, [lengths[d] + at for d in order], "cpu")
        for document, out in zip(order, step.from_rows(kernels, 0, *tokens, n_kv_heads, 0.2), strict=True):
            seen[document].append(out[None])
    for (row, c, s), length, ours in zip(documents, whole, seen, strict=True):
        assert close(torch.cat(ours), plainly(row, c, s, [length], heads, n_kv_heads)[2])


def test_a_row_or_a_prompt_that_does_not_fit_into_the_cache_is_refused():
    rows, cos, sin = asked([40], 2, 1, 8, torch.float32)
    kernels, cache = native.kernels_for(rows), Cache(1, 32)
    with pytest.raises(ValueError, match=r"prompts of \[40\] tokens don't fit into 32"):
        Prefill([40], cache, [0]).from_rows(kernels, 0, rows, cos, sin, 1, 0.2)
    with pytest.raises(ValueError, match="1 rows of 33 tokens don't fit into 1 of 32"):
        Step(cache, [32], "cpu").from_rows(kernels, 0, rows[:1], cos[:1], sin[:1], 1, 0.2)
    with pytest.raises(ValueError, match="2 rows of 4 tokens don't fit into 1 of 32"):
        Step(cache, [3, 3], "cpu").from_rows(kernels, 0, rows[:2], cos[:2], sin[:2], 1, 0.2)
    with pytest.raises(ValueError, match="2 prompts are given 1 rows"):
        Prefill([4, 4], cache, [0]).from_rows(kernels, 0, rows[:8], cos[:8], sin[:8], 1, 0.2)
    with pytest.raises(TypeError, match=r"the cache holds torch.float32, a prompt brings torch.bfloat16"):
        half = [part[:9].bfloat16() for part in (rows, cos, sin)]
        Prefill([9], cache, [0]).from_rows(native.kernels_for(*half), 0, *half, 1, 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_no_bit(kind):
    rows, cos, sin = asked([70], 6, 2, 16, kind)
    other = rows.clone()
    other[50:] *= -3
    seen = [Documents([70]).from_rows(native.kernels_for(x), 0, x, cos, sin, 2, 0.2) for x in (rows, other)]
    assert torch.equal(seen[0][:50], seen[1][:50]) and not torch.equal(seen[0][50:], seen[1][50:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_that_is_not_a_number_stays_none_and_in_its_document(kind):
    rows, cos, sin = asked([20, 20], 2, 1, 8, kind)
    rows[5] = math.nan
    seen = Documents([20, 20]).from_rows(native.kernels_for(rows), 0, rows, cos, sin, 1, 0.2)
    assert seen[5:20].isnan().all() and not seen[20:].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_exponential_is_exact_over_its_whole_range(kind):
    """Through a gated unit, whose gate is x / (1 + e^-x)."""
    x = torch.linspace(-86, 86, 5001).to(kind)
    both, out = torch.stack([x, torch.ones_like(x)], dim=1).contiguous(), torch.empty_like(x)
    native.kernels_for(both).swiglu_forward(both, out, len(x), 1)
    wanted = x.double() * x.double().sigmoid()
    assert ((out.double() - wanted).abs() <= wanted.abs() * (1e-6 if kind == torch.float32 else 2**-8)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [0, 1999])
def test_a_loss_and_its_gradient_are_those_of_torch(kind, label):
    logits = drawn(3, 2000, kind=kind, scale=8)
    labels, nats = torch.tensor([label, 7, 500]), torch.empty(3)
    wide = logits.double().requires_grad_()
    theirs = functional.cross_entropy(wide, labels, reduction="none")
    [gradient] = torch.autograd.grad(theirs.sum(), wide)
    untouched = logits.clone()
    native.kernels_for(logits).cross_entropy(untouched, labels, nats, 0, 3, 2000)
    assert torch.equal(untouched, logits) and torch.allclose(nats.double(), theirs, rtol=1e-6)
    native.kernels_for(logits).cross_entropy(logits, labels, nats, 1, 3, 2000)
    assert close(logits, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_is_rounded_as_torch_rounds_it(kind):
    """Through a norm of rows whose mean square is 1 and whose weight is 1: only the rounding is left."""
    x = drawn(50, 64, kind=kind)
    out, inverse = torch.empty_like(x), torch.empty(50)
    native.kernels_for(x).rms_norm_forward(x, torch.ones(64, dtype=kind), out, inverse, 1e-5, 50, 64)
    assert torch.equal(out, (x.float() * inverse[:, None]).to(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_no_sum_depends_on_the_number_of_threads(kind):
    both, lengths = drawn(33, 2 * 40, kind=kind), [50, 3, 70]
    rows, cos, sin = asked(lengths, 4, 2, 32, kind)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out, leaf = both.new_empty(33, 40), rows.clone().requires_grad_()
        native.kernels_for(both).swiglu_forward(both, out, 33, 40)
        seen = CompiledAttention.apply(leaf, cos, sin, 0, Documents(lengths), 2, 0.2, native.kernels_for(rows))
        found.append((out, seen, *torch.autograd.grad(seen.sum(), leaf)))
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_does_not_lie_row_after_row_or_is_of_two_types_is_left_to_torch():
    x = torch.randn(4, 6)
    assert native.kernels_for(x) and not native.kernels_for(x.t()) and not native.kernels_for(x[:, :3])
    assert (
        not native.kernels_for(x, x.bfloat16())
        and not native.kernels_for(x.double())
        and not native.kernels_for(x.to("meta"))
    )
    native.close()
    assert native.kernels_for(x) is None


def test_the_threads_are_those_of_torch():
    """A second OpenMP runtime in the process would fight the first one for the processors."""
    with open("/proc/self/maps") as file:
        found = {line.split(maxsplit=5)[5].strip() for line in file if "libgomp" in line or "libomp" in line}
    assert found == {native.threads()}


@pytest.fixture
def one_kind(monkeypatch):
    """Compiles for fp32 alone: half of the seconds."""
    monkeypatch.setattr(compiler, "KINDS", {"fp32": ()})


def compiled_in(folder):
    """Name and time of each file that was compiled or linked."""
    return {file.name: file.stat().st_mtime_ns for end in ("o", "so") for file in folder.glob(f"*.{end}")}


def test_it_is_compiled_once_and_anew_for_another_source(tmp_path, monkeypatch, one_kind):
    native.build(tmp_path)
    before = compiled_in(tmp_path)
    native.build(tmp_path)
    assert compiled_in(tmp_path) == before and len(before) == 2
    copied = Path(shutil.copytree(compiler.NATIVE, tmp_path / "native"))
    monkeypatch.setattr(compiler, "SOURCE", copied / compiler.SOURCE.name)
    for number, file in enumerate((copied / "common.h", copied / "attention.c")):
        file.write_bytes(file.read_bytes() + b"\n")
        native.build(tmp_path / str(number))
        after = compiled_in(tmp_path / str(number))
        assert not after.keys() & before.keys()
        before |= after


def test_flags_in_the_compilers_command_are_part_of_what_a_file_is_made_from(tmp_path, monkeypatch, one_kind):
    found = []
    monkeypatch.setattr(compiler, "cached", lambda folder, suffix, made_from, command: found.append(made_from))
    for command in ("gcc", "gcc -g1"):
        monkeypatch.setenv("CC", command)
        compiler.compile_all(tmp_path)
    assert len(set(found)) == 2


def test_what_was_compiled_ahead_is_only_linked(tmp_path, one_kind):
    compiler.compile_all(tmp_path)
    [part] = before = compiled_in(tmp_path)
    native.build(tmp_path)
    assert compiled_in(tmp_path)[part] == before[part]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false", "false: "),
        ("no-such-compiler", "no-such-compiler: FileNotFoundError"),
        ("echo", "echo: wrote no file"),
        ("gcc 'half", r"\$CC is no command: No closing quotation"),
    ],
)
def test_without_a_compiler_the_reason_is_one_line(tmp_path, monkeypatch, command, reason):
    monkeypatch.setenv("CC", command)
    with pytest.raises(NoCompiler, match=reason) as found:
        native.build(tmp_path)
    assert isinstance(found.value, UsageError) and "\n" not in str(found.value)


def test_a_compiler_that_refuses_the_source_is_named_with_its_first_error(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "OPTIONS", ("-fPIC",))  # without OpenMP
    with pytest.raises(NoCompiler, match="expected GCC with OpenMP"):
        native.build(tmp_path)


def test_what_was_compiled_and_is_damaged_is_made_anew(tmp_path, one_kind):
    native.build(tmp_path / "whole")
    wanted = {name: (tmp_path / "whole" / name).read_bytes() for name in compiled_in(tmp_path / "whole")}
    (tmp_path / "torn").mkdir()
    for name, data in wanted.items():
        (tmp_path / "torn" / name).write_bytes(data[:1000])
    native.build(tmp_path / "torn")
    assert {name: (tmp_path / "torn" / name).read_bytes() for name in compiled_in(tmp_path / "torn")} == wanted


def test_the_header_declares_the_functions_of_the_libraries_and_no_others(libraries):
    exported = set()
    for library in libraries.glob("*.so"):
        listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
        exported |= {line.split()[-1] for line in listed.stdout.splitlines() if " T " in line} - {"_init", "_fini"}
    assert exported == native.signatures().keys()


def test_types_of_arguments_are_those_of_the_header():
    address, number, scale = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    assert native.signatures()["rms_norm_forward"] == (address,) * 4 + (scale, number, number)
    assert native.signatures()["able"] == ()


def test_a_call_with_other_arguments_than_declared_is_refused():
    x, out, inverse = torch.ones(2, 8), torch.empty(2, 8), torch.empty(2)
    call = native.kernels_for(x).rms_norm_forward
    for wrong, error in (
        ((x, x, out, inverse, 1e-5, 2), ValueError),  # one too few
        ((x, x, out, inverse, 1e-5, 2, 8, 1), ValueError),  # one too many
        ((x, x, out, 3, 1e-5, 2, 8), AttributeError),  # a number for a tensor
        ((x, x, out, inverse, 1e-5, 2, x), ctypes.ArgumentError),  # a tensor for a number
        ((x, x, out, inverse, 1e-5, 2.0, 8), ctypes.ArgumentError),  # a float for an int
    ):
        with pytest.raises(error):
            call(*wrong)


def gradient(tiny, encoded, machine, name):
    """Of a method's trained parameters, frozen weights in the machine's precision."""
    model, tokenizer = tiny()
    torch.manual_seed(0)
    model = METHODS[name]().attach(model, tokenizer)
    for parameter in model.parameters():
        if not parameter.requires_grad and machine.precision == "bf16":
            parameter.data = parameter.data.bfloat16()
    layers.install(model)
    loss_of(model, encoded, 256, machine).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


class Scaled(torch.nn.Module):
    """A linear layer whose outputs a method scales in fp32, whatever the products' precision."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, torch.nn.Parameter(torch.full((inner.out_features,), 1.5))

    def forward(self, x):
        return self.inner(x) * self.scale


class Scales:
    def attach(self, model, tokenizer):
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.self_attn.k_proj = Scaled(layer.self_attn.k_proj)
        return model


METHODS["scales"] = Scales


def test_another_number_of_tokens_than_the_documents_have_is_refused(tiny, encoded, fp32):
    model, _ = tiny()
    layers.install(model)
    attention = model.model.layers[0].self_attn
    cos = torch.ones(1, 5, 8)
    for tokens, lengths in ((6, [5]), (5, [4]), (5, [5, 1])):
        with pytest.raises(ValueError, match="attention is given"):
            attention(torch.randn(1, tokens, 32), position_embeddings=(cos, cos), segments=Documents(lengths))


@pytest.mark.parametrize("label", [50, 10**6])
def test_a_label_that_the_head_has_no_row_for_is_refused(label):
    with pytest.raises(IndexError, match=f"label {label} where the output head has 50 rows"):
        CrossEntropy.apply(torch.randn(2, 6), torch.randn(50, 6), torch.tensor([3, label]), True)


def test_a_loss_that_is_not_a_number_stays_none():
    for kind in KINDS:
        logits, nats = torch.zeros(1, 50, dtype=kind), torch.empty(1)
        logits[0, 30] = math.nan
        native.kernels_for(logits).cross_entropy(logits, torch.tensor([3]), nats, 0, 1, 50)
        assert nats.isnan().all()


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "scales"])
def test_a_gradient_in_bf16_is_no_further_from_that_in_fp32_than_torch_s(tiny, encoded, fp32, name):
    bf16 = dataclasses.replace(fp32, precision="bf16")
    ours = gradient(tiny, encoded, bf16, name)
    native.close()
    theirs, exact = (gradient(tiny, encoded, machine, name) for machine in (bf16, fp32))
    assert torch.norm(ours - exact) <= 1.1 * torch.norm(theirs - exact) and not torch.equal(ours, theirs)


@pytest.mark.parametrize("rows", [1, 16, 33, 200])
@pytest.mark.parametrize("ranks", [0, 6, 32])
def test_products_while_decoding_are_those_of_torch_for_few_rows_and_for_many(rows, ranks):
    """Two layers side by side, LoRA beside the second."""
    kind = torch.bfloat16
    layers_of = [torch.nn.Linear(96, outputs, bias=False).to(kind).requires_grad_(False) for outputs in (64, 32)]
    x, beside = drawn(1, rows, 96, kind=kind), []
    wide = torch.cat([layer.weight for layer in layers_of]).double()
    if ranks:
        beside = [LoraPair(drawn(ranks, 96, kind=torch.float32), drawn(32, ranks, kind=torch.float32) / 9, 2.0, 64)]
        wide[64:] += beside[0].lora_B.to(kind).double() @ beside[0].lora_A.to(kind).double() * 2.0
    ours = packed_weights.for_decoding(layers_of, beside)
    assert isinstance(ours, packed_weights.PackedLinear)
    assert close(ours(x), x.double() @ wide.t())
    for other in (x.float(), drawn(1, rows, 64, kind=kind)):  # of another type or width than the weights
        with pytest.raises(RuntimeError):
            ours(other)


@pytest.mark.parametrize(("inputs", "outputs", "bias", "kind"), [
    (48, 64, False, torch.bfloat16), (64, 48, False, torch.bfloat16), (64, 64, True, torch.bfloat16),
    (64, 64, False, torch.float32),
])  # fmt: skip
def test_weights_that_fill_no_panel_stay_in_the_order_of_onednn(inputs, outputs, bias, kind):
    layer = torch.nn.Linear(inputs, outputs, bias=bias).to(kind).requires_grad_(False)
    if kind == torch.bfloat16 and not has_bf16("cpu"):
        pytest.skip("oneDNN multiplies no bf16 on this processor")
    assert isinstance(packed_weights.for_decoding([layer], []), packed_weights.OneDnnLinear)
