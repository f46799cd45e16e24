"""Tensors that stand for numbers which are held in fewer bits, as torchao's do."""

from typing import Any


def parts(tensor: Any) -> list[Any]:
    """The tensors that hold the numbers of `tensor`: itself, or what torchao packed them into and their scales.

    torchao's kind says that it has the type and the bytes of what it stands for; bitsandbytes' says what it holds.
    """
    if not type(tensor).__module__.startswith("torchao."):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def packed(tensor: Any) -> bool:
    """Whether `tensor` only stands for numbers that others hold."""
    return parts(tensor)[0] is not tensor


def held_bytes(tensor: Any) -> int:
    """What `tensor` takes of memory."""
    return sum(int(part.nbytes) for part in parts(tensor))
