"""What this machine is, and the choices that it makes for a run: device, precision, attention, threads."""

import contextlib
import math
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bakeoff.config.schema import Computation, EngineSettings, MachineSettings
from bakeoff.core.errors import UsageError

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "numpy", "rouge-score", "nltk")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
DRIVER = Path("/proc/driver/nvidia/version")
CARDS = (DRIVER, Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""Files of which one is there where a GPU is: NVIDIA's, AMD's, and those of Windows' own Linux."""


ROW = 16_384
"""Tokens of a micro-batch on a GPU: its kernels are no faster with more."""


BESIDE = 8
"""Threads of a run on a GPU, at most: a processor has little to do there, and a cluster gives each run its own."""


def resolve(asked: MachineSettings, ways: EngineSettings, parallel: int = 1) -> Computation:
    """Both with every `auto` decided but that of attention, which depends on the model.

    `parallel` runs share the processor's threads. Raises UsageError for what this machine doesn't have.
    """
    import torch

    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("machine.device = 'cuda': torch finds no GPU; type --set machine.device=cpu")
    precision = asked.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if asked.engine in ("cpu", "cuda") and device != asked.engine:
        raise UsageError(f"machine.engine = {asked.engine!r}: the run is on {device}; type --set machine.engine=auto")
    if asked.sharded and asked.ranks == 1:
        raise UsageError("machine.sharded: there is one rank; type --set machine.ranks=2, or as many as there are GPUs")
    if asked.sharded and asked.engine in ("cpu", "cuda"):
        raise UsageError(f"machine.engine = {asked.engine!r}: weights that are sharded take 'plain'; "
                         "type --set machine.engine=auto")  # fmt: skip
    engine = "plain" if asked.sharded else device if asked.engine == "auto" else asked.engine
    attention = ways.attention
    if attention == "auto":
        attention = "sdpa" if device == "cuda" else "eager"
    packing = ways.packing and engine != "plain"
    layers = packing and not asked.checkpoint_activations  # fused layers keep what their gradients need
    rows = layers and engine == "cpu"
    return Computation(
        device=device,
        precision=precision,
        checkpoint_activations=asked.checkpoint_activations,
        threads=asked.threads
        or (min(BESIDE, available_threads()) if device == "cuda" else max(1, available_threads() // parallel)),
        ranks=asked.ranks,
        sharded=asked.sharded,
        engine=engine,
        attention=attention,
        packing=packing,
        micro_batch_tokens=ways.micro_batch_tokens or (ROW if packing and engine == "cuda" else 0),
        captured=ways.captured and packing and engine == "cuda",
        merged=ways.merged and packing and engine == "cuda",
        labels_only=ways.labels_only,
        fused=ways.fused and layers,
        compiled=ways.compiled and ways.fused and rows,
        shared_prefix=ways.shared_prefix and rows,
        cached_features=ways.cached_features,
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
    """Processors that this process may use: those that it is scheduled on, its container's share of them where it has
    one, and no more than OMP_NUM_THREADS says."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one of nested loops
    limits = [container_share(), float(asked) if asked.isdecimal() and int(asked) else math.inf]
    return max(1, int(min(count, *limits)))


def container_share(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """Processors that a container's limit comes to, rounded up; infinite without one.

    `docker --cpus` and Kubernetes limit time by a quota (cgroup v2, cpu.max) and show every processor of the machine.
    """
    try:
        [path] = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return math.inf
    found = math.inf
    place = root / path.strip("/")
    for folder in (place, *place.parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            found = min(found, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):  # "max": no limit
            pass
        if folder == root:
            break
    return found


def threads_of_rank(where: Computation) -> int:
    """The threads of one of a run's ranks: on a CPU its share of the run's."""
    return max(1, where.threads // where.ranks) if where.device == "cpu" else where.threads


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


def card(device: str) -> dict[str, str]:
    """What changes how a GPU rounds: its name, capability and driver, and CUDA's and cuDNN's versions; {} on a CPU."""
    if device != "cuda":
        return {}
    import torch

    try:
        kernel = re.search(r"\b\d+\.\d+(\.\d+)*\b", DRIVER.read_text())
    except OSError:  # ROCm, Windows' own Linux
        kernel = None
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "gpu_driver": kernel[0] if kernel else "unknown",
        "cuda": str(torch.version.cuda or f"ROCm {torch.version.hip}"),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def cards(device: str) -> dict[str, str]:
    """The visible GPUs that are of the first one's kind, as CUDA_VISIBLE_DEVICES names them; {} on a CPU.

    Each with its UUID, which is the same whatever names it has: an index, or the UUID's first digits. A slice of a GPU
    (MIG) is known by its name. A run's fingerprint names its card's kind, so that a run on another kind would not be
    the one that was planned.
    """
    if device != "cuda":
        return {}
    import torch

    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    names = names[:count] if len(names) >= count else [str(number) for number in range(count)]
    kinds = [torch.cuda.get_device_properties(number) for number in range(count)]
    same = [(kind.name, kind.total_memory) == (kinds[0].name, kinds[0].total_memory) for kind in kinds]
    found = {}
    for name, kind, alike in zip(names, kinds, same, strict=True):
        if alike:
            found[name] = name if name.startswith("MIG-") else str(getattr(kind, "uuid", name))
    return found


def expects_card(device: str) -> bool:
    """Whether `resolve` will take a GPU for the setting `device`, as far as can be seen without importing torch."""
    if device != "auto":
        return device == "cuda"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA stops reading at the first name that is none: "", "-1" and "NoDevFiles" hide every GPU.
    if visible is not None and not re.match(r"\d|GPU-|MIG-", visible.strip()):
        return False
    found = find_spec("torch")
    try:
        build = Path(str(found and found.origin)).with_name("version.py").read_text()
    except OSError:
        return False
    built = re.search(r"^(cuda|hip)\b[^=\n]*=\s*['\"]", build, re.MULTILINE)
    return bool(built) and any(sign.exists() for sign in CARDS)


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Inside, every operation repeats to the bit. Raises UsageError for one that has no such form on a GPU.

    With warnings alone, attention's backward pass on a GPU would still add in any order.
    """
    if device != "cuda":  # seed_everything asks for it everywhere
        yield
        return
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        name, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise UsageError(f"{name} can't be repeated to the bit on a GPU; type --set machine.device=cpu") from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def processor() -> str:
    """The processor's name and the vector extensions that change what a product rounds to."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    vector = ("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")
    flags = set(fields.get("flags", fields.get("Features", "")).split())
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
