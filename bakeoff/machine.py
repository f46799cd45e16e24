"""What this machine is, and the choices that it makes for a run: device, precision, attention, threads."""

import dataclasses
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bakeoff.errors import UsageError
from bakeoff.settings import MachineSettings

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "numpy", "rouge-score", "nltk")


def resolve(asked: MachineSettings) -> MachineSettings:
    """`asked` with every `auto` decided. Raises UsageError for what this machine doesn't have."""
    import torch

    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("machine.device = 'cuda': torch finds no GPU; type --set machine.device=cpu")
    precision = asked.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    attention = asked.attention
    if attention == "auto":
        attention = "sdpa" if device == "cuda" else "eager"
    packing = asked.packing and device == "cpu"  # a GPU's own attention kernels want padded batches
    return dataclasses.replace(
        asked,
        device=device,
        precision=precision,
        attention=attention,
        packing=packing,
        fused=asked.fused and packing,
        compiled=asked.compiled and asked.fused and packing,
        shared_prefix=asked.shared_prefix and packing,
        threads=asked.threads or available_threads(),
    )


def has_bf16(device: str) -> bool:
    """Whether the processor multiplies bf16 in hardware."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() == "arm64" and sys.platform == "darwin":
        return False
    if platform.machine() in ("x86_64", "AMD64"):  # oneDNN takes bf16 from AVX512 on, and widens it itself
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(able and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next tensor, instead of giving it back and faulting every page in again.

    Tensors of a few MB are else mapped anew each time: a product of 1600 x 576 x 3072 in bf16 takes three times as
    long. Blocks past 32 MB, glibc's limit, are mapped all the same. Elsewhere (macOS, musl) nothing happens.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is not None:
        tune(mmap_threshold, 32 * 2**20)
        tune(trim_threshold, 2**30)


def available_threads() -> int:
    """Processors that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of all that computes, and the processor's features, without importing any of it."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    found["processor"] = processor()
    return found


def processor() -> str:
    """The processor's name and the vector extensions that change what a product rounds to."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    vector = ("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return " ".join([name, *(flag for flag in vector if flag in flags)])


def environment() -> dict[str, str]:
    """What a report says of the machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "memory_gib": memory_gib(),
        **versions(),
    }


def memory_gib() -> str:
    """Physical memory in GiB, one decimal; `unknown` where the system doesn't say."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}"
    except (ValueError, OSError):
        return "unknown"
