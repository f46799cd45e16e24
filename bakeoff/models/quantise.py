"""Where and in how many bits a base model's weights are held; bitsandbytes or torchao quantises them."""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from bakeoff.config.schema import Computation, ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import Shapes

BITSANDBYTES, TORCHAO, MISSING = "bitsandbytes", "torchao", "missing"
DECOMPOSED = ("pissa", "corda", "mica")
"""How the names of initialisations begin that need weights in full precision."""


def leave_out() -> None:
    """Hides what quantises from this process until `bring_back`; to be called before PEFT is imported.

    PEFT imports bitsandbytes wherever it is installed, and torchao for every LoRA. That takes seconds; bitsandbytes
    asks the hub for a kernel on some processors, and starts CUDA: a process that is forked afterwards can use no GPU.
    """
    for package in (BITSANDBYTES, TORCHAO):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]


def bring_back(package: str = BITSANDBYTES) -> None:
    """Takes back what `leave_out` did, for a run that needs `package`; PEFT and transformers look for it anew."""
    from peft import import_utils as of_peft
    from transformers.utils import import_utils as of_transformers

    if sys.modules.get(package, package) is None:
        del sys.modules[package]
    for asked in (
        of_peft.is_bnb_available, of_peft.is_bnb_4bit_available, of_peft.is_torchao_available,
        of_transformers.is_bitsandbytes_available, of_transformers.is_torchao_available,
    ):  # fmt: skip
        asked.cache_clear()


def package_of(quantisation: str) -> str:
    """The package that quantises as the setting says."""
    return TORCHAO if quantisation.startswith(TORCHAO) else BITSANDBYTES


def refuse(what: str, device: str, instead: str, package: str = BITSANDBYTES) -> None:
    """Raises UsageError where the setting `what` can't be had on `device`; `instead` is the setting without it."""
    if package == BITSANDBYTES and device != "cuda":
        raise UsageError(f"{what}: needs a GPU, and the run is on {device}; type --set {instead}")
    if package == TORCHAO and device not in ("cpu", "cuda"):
        raise UsageError(f"{what}: needs a processor or a GPU, and the run is on {device}; type --set {instead}")
    if installed(package)[package] == MISSING:
        raise UsageError(f"{what}: needs {package}, which is not installed; type pip install {package}")


def refuse_base(settings: ModelSettings, kind: str, device: str, sharded: bool = False) -> None:
    """Raises UsageError where a base model of `kind` (see Source) can't be quantised as its settings say."""
    if not settings.quantisation:
        return
    what = f"model.quantisation = {settings.quantisation!r}"
    refuse(what, device, "model.quantisation=", package_of(settings.quantisation))
    if sharded:
        raise UsageError(f"{what}: FSDP2 can't share quantised weights; type --set machine.sharded=false")
    if kind == "random":
        raise UsageError(f"{what}: the model 'random' has no files to read; type --set model.quantisation=")


def refuse_files(settings: ModelSettings, config: Any) -> None:
    """Raises UsageError where a configuration says that the weights are quantised: such a base can't be trained."""
    text = config.get_text_config()
    for part in (config, text):
        if found := getattr(part, "quantization_config", None):
            values = found if isinstance(found, Mapping) else vars(found)
            how = str(getattr(values.get("quant_method"), "value", values.get("quant_method") or "an unnamed method"))
            raise UsageError(
                f"--model {settings.name}: its weights are quantised ({how}, in config.json), and a quantised base "
                "can't be trained here; give the model in full precision"
            )


def refuse_method(name: str, settings: ModelSettings, shapes: Shapes, attached: Any) -> None:
    """Raises UsageError where a method can't stand beside quantised weights, those of linear layers but the head.

    One may train them, begin from their decomposition, or be of a kind for which PEFT has no layer beside them.
    """
    if not settings.quantisation:
        return
    what = f"model.quantisation = {settings.quantisation!r}"
    if reason := unable(attached, package_of(settings.quantisation)):
        raise UsageError(f"method {name!r}, {what}: {reason}; take --method lora or type --set model.quantisation=")
    for place, module in attached.named_modules():
        if place in shapes.linear and place != shapes.head:
            trained = [own for own, tensor in module.named_parameters(recurse=False) if tensor.requires_grad]
            if trained:
                raise UsageError(
                    f"method {name!r}: trains {place}.{trained[0]}, which {what} freezes; "
                    "take --method lora or type --set model.quantisation="
                )


def unable(attached: Any, package: str) -> str:
    """Why PEFT can't put what it attached beside weights that `package` quantised; empty where it can, or nothing of
    it is PEFT's.
    """
    tuner = type(getattr(attached, "base_model", None)).__module__
    if not tuner.startswith("peft.tuners."):
        return ""
    config = next(iter(attached.peft_config.values()))
    decomposed = DECOMPOSED if package == BITSANDBYTES else (*DECOMPOSED, "olora")
    if str(getattr(config, "init_lora_weights", "")).startswith(decomposed) or getattr(config, "kasa_config", None):
        return "it begins from a decomposition of the weights, which can't be had of quantised ones"
    if not stands_beside(tuner.rpartition(".")[0], package):
        return f"PEFT has no layer of {config.peft_type.value} beside weights that {package} quantised"
    return ""


def stands_beside(tuner: str, package: str) -> bool:
    """Whether a folder of PEFT has a layer for quantised weights: of that package, or one for those of all packages."""
    own = "torchao" if package == TORCHAO else "bnb"
    of_all = hasattr(sys.modules.get(f"{tuner}.layer"), "resolve_quantization_backend")
    return of_all or find_spec(f"{tuner}.{own}") is not None


def installed(package: str = BITSANDBYTES) -> dict[str, str]:
    """The version of what quantises."""
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {package: MISSING}


def versions(settings: ModelSettings) -> dict[str, str]:
    """The version of what quantises the base model; empty where nothing does."""
    return installed(package_of(settings.quantisation)) if settings.quantisation else {}


def placed(settings: ModelSettings, read: Callable[[], Any], where: Computation | None) -> dict[str, Any]:
    """How transformers reads a folder's weights for a run: straight to a GPU, quantised if asked.

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
    """What transformers reads weights by: NF4 with scales in eight bits (Dettmers et al. 2023, arXiv:2305.14314),
    LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339), or torchao's eight bits with one scale a row.

    `products` is the type in which layers compute.
    """
    package = package_of(settings.quantisation)
    bring_back(package)
    if package == TORCHAO:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if settings.quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=products
    )
