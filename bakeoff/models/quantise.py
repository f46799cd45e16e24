"""Where and in how many bits a base model's weights are held; four and eight bits are bitsandbytes'."""

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from bakeoff.config.schema import Computation, ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import Shapes

PACKAGE, MISSING = "bitsandbytes", "missing"
DECOMPOSED = ("pissa", "corda")
"""How the names of initialisations begin that need weights in full precision."""


def leave_out() -> None:
    """Hides bitsandbytes from this process until `bring_back`; to be called before PEFT is imported.

    PEFT imports it wherever it is installed. That takes a second, asks the hub for a kernel on some processors, and
    starts CUDA: a process that is forked afterwards can use no GPU.
    """
    sys.modules.setdefault(PACKAGE, None)  # type: ignore[arg-type]


def bring_back() -> None:
    """Takes back what `leave_out` did, for a run that needs bitsandbytes; PEFT and transformers look for it anew."""
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from transformers.utils.import_utils import is_bitsandbytes_available

    if sys.modules.get(PACKAGE, PACKAGE) is None:
        del sys.modules[PACKAGE]
    for asked in (is_bnb_available, is_bnb_4bit_available, is_bitsandbytes_available):
        asked.cache_clear()


def refuse(what: str, device: str, instead: str) -> None:
    """Raises UsageError where the setting `what` can't be had on `device`; `instead` is the setting without it."""
    if device != "cuda":
        raise UsageError(f"{what}: needs a GPU, and the run is on {device}; type --set {instead}")
    if installed()[PACKAGE] == MISSING:
        raise UsageError(f"{what}: needs {PACKAGE}, which is not installed; type pip install {PACKAGE}")


def refuse_base(settings: ModelSettings, kind: str, device: str, sharded: bool = False) -> None:
    """Raises UsageError where a base model of `kind` (see Source) can't be quantised as its settings say."""
    if not settings.quantisation:
        return
    what = f"model.quantisation = {settings.quantisation!r}"
    refuse(what, device, "model.quantisation=")
    if sharded:
        raise UsageError(f"{what}: FSDP2 can't share quantised weights; type --set machine.sharded=false")
    if kind == "random":
        raise UsageError(f"{what}: the model 'random' has no files to read; type --set model.quantisation=")


def refuse_method(name: str, settings: ModelSettings, shapes: Shapes, attached: Any) -> None:
    """Raises UsageError where a method can't stand beside quantised weights, those of linear layers but the head.

    One may train them, begin from their decomposition, or be of a kind for which PEFT has no layer beside them.
    """
    if not settings.quantisation:
        return
    what = f"model.quantisation = {settings.quantisation!r}"
    if reason := unable(attached):
        raise UsageError(f"method {name!r}, {what}: {reason}; take --method lora or type --set model.quantisation=")
    for place, module in attached.named_modules():
        if place in shapes.linear and place != shapes.head:
            trained = [own for own, tensor in module.named_parameters(recurse=False) if tensor.requires_grad]
            if trained:
                raise UsageError(
                    f"method {name!r}: trains {place}.{trained[0]}, which {what} freezes; "
                    "take --method lora or type --set model.quantisation="
                )


def unable(attached: Any) -> str:
    """Why PEFT can't put what it attached beside quantised weights; empty where it can, or nothing of it is PEFT's."""
    tuner = type(getattr(attached, "base_model", None)).__module__
    if not tuner.startswith("peft.tuners."):
        return ""
    config = next(iter(attached.peft_config.values()))
    if str(getattr(config, "init_lora_weights", "")).startswith(DECOMPOSED):
        return "it begins from a decomposition of the weights, which PEFT refuses of quantised ones"
    if find_spec(f"{tuner.rpartition('.')[0]}.bnb") is None:
        return f"PEFT has no layer of {config.peft_type.value} beside quantised weights"
    return ""


def installed() -> dict[str, str]:
    """The version of what quantises."""
    try:
        return {PACKAGE: version(PACKAGE)}
    except PackageNotFoundError:
        return {PACKAGE: MISSING}


def placed(settings: ModelSettings, read: Callable[[], Any], where: Computation | None) -> dict[str, Any]:
    """How transformers reads a folder's weights where a run computes on a GPU: straight to it, quantised if asked.

    `read` gives the model's configuration. Weights of two bytes stay as the files have them where the run is in bf16:
    nothing is lost, and nothing stands in fp32 on the way. Empty where they are read in fp32 on the CPU.
    """
    if where is None or (where.device == "cpu" and not settings.quantisation):
        return {}
    import torch

    products = torch.bfloat16 if where.precision == "bf16" else torch.float32
    kept = getattr(read().get_text_config(), "dtype", None)
    halved = products == torch.bfloat16 and kept in (torch.bfloat16, torch.float16)
    found: dict[str, Any] = {
        "dtype": products if settings.quantisation else kept if halved else torch.float32,
        "device_map": {"": "cpu" if where.sharded else where.device},
    }
    if settings.quantisation:
        found["quantization_config"] = configuration(settings, products)
    return found


def configuration(settings: ModelSettings, products: Any) -> Any:
    """What transformers reads weights by: NF4 with scales in eight bits (Dettmers et al. 2023, arXiv:2305.14314), or
    LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339). `products` is the type in which layers compute."""
    bring_back()
    from transformers import BitsAndBytesConfig

    if settings.quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=products
    )
