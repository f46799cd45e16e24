"""Models of known shapes with random weights, and documents of random tokens: all that speed and equality need."""

import gc
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bakeoff.config.schema import Computation
from bakeoff.data.encoding import Encoded
from bakeoff.methods.selection import select


@dataclass(frozen=True)
class Shape:
    """A Llama of one size, and the work that it is timed on."""

    hidden: int
    layers: int
    heads: int
    n_kv_heads: int
    inner: int
    vocabulary: int
    documents: int
    """Of the timed training."""
    batch: int
    """Documents in an optimizer step."""
    trainer_size: int
    """Documents in a forward pass of Trainer."""
    tokens: int
    """The longest document; the shortest has a third."""
    labels: int
    """Label tokens of a document, and tokens that are written."""
    prompts: int
    rows: int
    """Prompts that are decoded together."""


SHAPES = {
    "135M": Shape(576, 30, 9, 3, 1536, 49_152, 1024, 32, 32, 512, 64, 128, 32),
    "1B": Shape(2048, 16, 32, 8, 8192, 128_256, 256, 32, 16, 512, 64, 64, 32),
    "7B": Shape(4096, 32, 32, 8, 14_336, 32_000, 64, 16, 4, 512, 64, 32, 16),
}
REHEARSAL = {"tiny": Shape(64, 2, 4, 2, 128, 512, 8, 4, 4, 48, 6, 6, 3)}
"""What a processor can do in seconds; its figures say nothing of a GPU."""
[LORA] = [entry.kind for entry in select(["lora"]) if entry.name == "lora"]


def base(shape: Shape, where: Computation, **options: Any) -> Any:
    """The model with random weights, the same at every call, made where it computes and in its precision."""
    config = AutoConfig.for_model(
        "llama", hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.n_kv_heads, intermediate_size=shape.inner, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.vocabulary == SHAPES["135M"].vocabulary, max_position_embeddings=8192,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    kind = torch.bfloat16 if where.precision == "bf16" else torch.float32
    with torch.device(where.device):
        return AutoModelForCausalLM.from_config(config, dtype=kind, **{"attn_implementation": "sdpa", **options})


def with_lora(model: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    """A LoRA on `model`, and its parameters; B is not 0, so that what it does is seen."""
    own = set(map(id, model.parameters()))
    torch.manual_seed(1)
    attached = LORA().attach(model, None)
    added = [one for one in attached.parameters() if id(one) not in own]
    with torch.no_grad():
        for one in added:
            if not one.any():
                one.normal_(0, 0.02)
    return attached, added


def documents(shape: Shape, count: int, seed: int = 0) -> list[Encoded]:
    """Random tokens of random lengths, the last ones labelled."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shape.tokens // 3, shape.tokens + 1, (count,), generator=draw).tolist()
    texts = [torch.randint(3, shape.vocabulary, (length,), generator=draw).tolist() for length in lengths]
    return [Encoded(text, len(text) - shape.labels) for text in texts]


def free(device: str) -> None:
    """Gives memory back, and starts the peak anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int | None:
    """Most bytes allocated since `free`; None where nobody counts."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
