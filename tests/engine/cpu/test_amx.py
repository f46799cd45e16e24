"""The code for processors with tiles (AMX), run by emulated instructions: it gives what the serial code gives."""

import re
from pathlib import Path

import pytest
import torch

from bakeoff.engine.attention import Documents
from bakeoff.engine.cpu import compiler, native
from bakeoff.engine.cpu.compiler import NoCompiler

EMULATED = Path(__file__).with_name("emulated_amx.h")
BF16, FP32 = torch.bfloat16, torch.float32
CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The kernels for bf16 of this processor, and those for tiles."""
    if "avx512bw" not in CPU or "amx_bf16" in CPU:
        pytest.skip("the emulation is for processors with AVX-512 and without tiles (AMX)")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for more in ((), ("-fno-strict-aliasing", "-include", str(EMULATED))):
            patch.setattr(compiler, "KINDS", {"bf16": ("-DBF16", *more)})
            try:
                native.build(tmp_path_factory.mktemp("kernels"))
            except NoCompiler as missing:
                pytest.skip(f"the kernels can't be compiled: {missing}")
            found.append(native.kernels_for(torch.empty(0, dtype=BF16)))
            native.close()
    assert [kernels.tiles for kernels in found] == [False, True]
    return found


def drawn(*shape, kind=BF16, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * scale).to(kind)


def same(ours, theirs):
    """Within 3 units of the last place of bf16, of the largest figure: sums of bf16 are rounded again along a layer."""
    return all(
        (a.double() - b.double()).abs().max() <= 3 * 2**-8 * b.abs().max() for a, b in zip(ours, theirs, strict=True)
    )


def layer(kernels, tokens, d_model, head_dim, n_heads, n_kv_heads, d_ff, rank):
    """What a layer's functions give, forward and backward."""
    d_heads, d_out = n_heads * head_dim, (n_heads + 2 * n_kv_heads) * head_dim
    shapes = (d_out, d_model), (d_model, d_heads), (2 * d_ff, d_model), (d_model, d_ff)
    rooms = rank, 0, 0, 0
    weights = [drawn(*shape, scale=shape[1] ** -0.5) for shape in shapes]
    packed = [torch.zeros(out * (into + room), dtype=BF16) for (out, into), room in zip(shapes, rooms, strict=True)]
    turned = [torch.zeros(into * (out + room), dtype=BF16) for (out, into), room in zip(shapes, rooms, strict=True)]
    for weight, to, back, room in zip(weights, packed, turned, rooms, strict=True):
        kernels.pack(weight, to, *weight.shape, room)
        kernels.pack_transposed(weight, back, *weight.shape, room)
    lora_A, lora_B = torch.zeros(rank * d_model, dtype=BF16), torch.zeros(rank * d_out, dtype=BF16)
    down, up = drawn(rank, d_model, kind=FP32, scale=d_model**-0.5), drawn(d_out, rank, kind=FP32)
    kernels.pack_lora(down, lora_A, 1.0, rank, d_model, d_model, 1, d_model, 0, 0)
    kernels.pack_lora(up, packed[0], 0.5, d_out, rank, rank, 1, d_model + rank, 0, d_model)
    kernels.pack_lora(up, lora_B, 0.5, rank, d_out, 1, rank, d_out, 0, 0)
    kernels.pack_lora(down, turned[0], 1.0, d_model, rank, 1, d_model, d_out + rank, 0, d_out)
    x, norm = drawn(tokens, d_model), drawn(d_model).abs() + 0.5
    inner, inverse, rows = drawn(tokens, rank), torch.empty(tokens), drawn(d_out // head_dim, tokens, head_dim)
    heads, given, beside = (
        x.new_empty(n_heads, tokens, head_dim).copy_(rows[:n_heads] * 0.7),
        drawn(tokens, d_model),
        x * 0.1,
    )
    of_rows, lora, of_x = rows * 0.3, torch.empty(rank * (d_out + d_model)), torch.empty_like(x)
    kernels.pre_attention_forward(
        x, norm, packed[0], lora_A, inner, inverse, rows, 1e-5, tokens, d_model, d_out, head_dim, rank
    )
    kernels.pre_attention_backward(
        of_rows, beside, x, norm, inverse, turned[0], lora_B, inner, lora, of_x, tokens, d_model, d_out, head_dim,
        rank, 1,
    )  # fmt: skip
    residual, second, out = torch.empty_like(x), torch.empty(tokens), torch.empty_like(x)
    factors, of_x_2, of_heads = x.new_empty(d_ff // 32, tokens, 64), torch.empty_like(x), torch.empty_like(heads)
    kernels.post_attention_forward(
        x, heads, packed[1], norm, *packed[2:], residual, second, factors, out, 1e-5, tokens, d_heads, head_dim,
        d_model, d_ff, 1,
    )  # fmt: skip
    kernels.post_attention_backward(
        given, turned[1], norm, *turned[2:], residual, second, factors, of_x_2, of_heads, tokens, d_heads, head_dim,
        d_model, d_ff,
    )  # fmt: skip
    return *packed, *turned, inner, inverse, rows, lora, of_x, residual, second, factors, out, of_x_2, of_heads


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 77])
@pytest.mark.parametrize("rank", [32, 64])
def test_a_layer_by_tiles_gives_what_the_serial_one_gives(both, tokens, rank):
    sizes = {"d_model": 96, "head_dim": 32, "n_heads": 6, "n_kv_heads": 2, "d_ff": 704}
    serial, tiles = (layer(kernels, tokens, rank=rank, **sizes) for kernels in both)
    assert same(tiles, serial)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "d_model", "vocab_size"), [(1, 32, 32), (300, 704, 544)])
def test_a_head_by_tiles_gives_what_the_serial_one_gives(both, rows, d_model, vocab_size):
    x, weight, given, found = drawn(rows, d_model), drawn(vocab_size, d_model), drawn(rows, vocab_size), []
    for kernels in both:
        out, of_x = x.new_empty(rows, vocab_size), torch.empty_like(x)
        kernels.head_forward(x, weight, out, rows, d_model, vocab_size)
        kernels.head_backward(given, weight, of_x, rows, d_model, vocab_size)
        found.append((out, of_x))
    assert same(*reversed(found))


@pytest.mark.slow
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), [(9, 3, 64), (4, 2, 80), (34, 2, 6)])
def test_attention_by_tiles_gives_what_the_serial_one_gives(both, n_heads, n_kv_heads, head_dim):
    lengths, found = [33, 5, 100], []
    tokens = sum(lengths)
    rows = drawn(tokens, (n_heads + 2 * n_kv_heads) * head_dim)
    angles = torch.rand(tokens, head_dim // 2, generator=torch.Generator().manual_seed(1)).repeat(1, 2) * 6
    cos, sin, given = angles.cos().to(BF16), angles.sin().to(BF16), drawn(tokens, n_heads, head_dim)
    for kernels in both:
        documents, logs = Documents(lengths), torch.empty(n_heads, tokens)
        out = documents.from_rows(kernels, 0, rows, cos, sin, n_kv_heads, 0.2, logs)
        grad = documents.of_rows(kernels, rows, cos, sin, n_kv_heads, 0.2, logs, out, given)
        found.append((out, logs, grad))
    assert same(*reversed(found))


def test_instruction_sets_are_chosen_outside_of_functions():
    for file in sorted(compiler.NATIVE.glob("*.[ch]")):
        depth = 0
        for line in re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL).splitlines():
            assert not (depth and re.match(r"#.*(AVX|AMX|SSE|NEON)", line)), f"{file.name}: {line}"
            depth += line.count("{") - line.count("}")
        assert depth == 0, file.name
