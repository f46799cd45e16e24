"""How a model computes its loss and its text: `plain` is the reference, `cpu` and `cuda` are faster on their devices.

Other folders import from here alone. Nothing of torch is loaded before a function asks for it, so that a plan that is
refused costs no seconds.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.config.schema import Computation
from bakeoff.engine.cpu.compiler import NoCompiler
from bakeoff.engine.door import Engine
from bakeoff.engine.virtual import virtual_tokens

if TYPE_CHECKING:
    import torch

__all__ = ["KERNELS", "Engine", "NoCompiler", "compile_ahead", "compile_kernels", "compiler_version", "label_logits",
           "make", "open_kernels", "quicker_attention", "refuse_undivided", "replaceable_attention", "unreadable",
           "virtual_tokens"]  # fmt: skip

KERNELS = "native"
"""The folder of a store in which compiled kernels are kept."""


def make(where: Computation, pad: int) -> Engine:
    """The engine that `where` names; `pad` is an id that may stand in padded places."""
    if where.engine == "cpu":
        from bakeoff.engine.cpu.engine import Cpu

        return Cpu(where, pad)
    if where.engine == "cuda":
        from bakeoff.engine.cuda.engine import Cuda

        return Cuda(where, pad)
    if where.sharded:
        from bakeoff.engine.sharded import Sharded

        return Sharded(where, pad)
    from bakeoff.engine.plain import Plain

    return Plain(where, pad)


def compile_ahead(folder: Path) -> None:
    """Compiles the kernels into `folder` as far as that needs no torch. Raises NoCompiler."""
    from bakeoff.engine.cpu import compiler

    compiler.compile_all(folder)


def compiler_version() -> str:
    """What the C compiler says of its version, by which kernels are compiled here. Raises NoCompiler."""
    from bakeoff.engine.cpu import compiler

    return compiler.command()[1]


def compile_kernels(folder: Path) -> str:
    """Compiles the kernels into `folder` unless they are there; the compiler's version. Raises NoCompiler."""
    from bakeoff.engine.cpu import native

    return native.build(folder)


def open_kernels(where: Computation, folder: Path) -> None:
    """Has this process compute by the kernels in `folder`, or by torch's operators, as `where` says.

    What torch compiles for a GPU is kept there, too.
    """
    from bakeoff.engine.cpu import native

    if where.engine == "cuda":
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.absolute() / "inductor"))
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(where.threads))
    if where.compiled:
        native.build(folder)
    else:
        native.close()


def quicker_attention(file: Path, where: Computation) -> str:
    """`sdpa` or `eager`, whichever reads packed documents faster here: timed once and kept in `file`."""
    from bakeoff.engine.timing import remembered

    return remembered(file, where)


def replaceable_attention(model: Any) -> bool:
    """Whether transformers lets the attention of `model` be another function, as packed rows need."""
    from bakeoff.engine.attention import replaceable

    return replaceable(model)


def unreadable(model: Any) -> str:
    """Why `model`, which may stand on the meta device, can't be given a document; empty where it can."""
    from bakeoff.engine.layout import unreadable as reason

    return reason(model)


def refuse_undivided(model: Any) -> None:
    """Raises UsageError where the frozen weights of `model`, which may stand on the meta device, can't be sharded."""
    from bakeoff.engine.sharded import divided

    divided(model)


def label_logits(model: Any, ids: "torch.Tensor", keep: "torch.Tensor") -> "torch.Tensor":
    """kept x vocabulary: plain logits where `keep` (batch x length, bool) is True, of documents padded on the right."""
    from bakeoff.engine import padded

    return padded.label_logits(model, ids, keep)
