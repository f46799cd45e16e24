"""Weight files, checked before a library reads them: a file that is torn or lies about its sizes is refused."""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from bakeoff.core.errors import UsageError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# The GGUF specification (github.com/ggml-org/ggml, docs/gguf.md): bytes of a value by its type; 8 is text, 9 a list.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, LIST = 8, 9
DIMENSIONS = 8
"""A tensor has at most 4; more is no tensor."""
ROWS = 2**24
"""Numbers of a matrix that are compared at a time."""


def check_gguf(path: Path) -> None:
    """Raises UsageError where a GGUF file's lengths, counts or tensors don't fit into the file."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                Header(data).check()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--model {path}: not a GGUF file that transformers reads ({error}); copy or download it again"
        ) from None


class Header:
    """Walks through a GGUF file's header; every step is held against the file's size. Raises ValueError."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.offset, self.order = data, 0, "<"

    def take(self, size: int, what: str) -> int:
        """Steps over `size` bytes; returns where they start."""
        start = self.offset
        if size > len(self.data) - start:
            raise ValueError(f"{what} at byte {start} claims {size} bytes, the file has {len(self.data)}")
        self.offset += size
        return start

    def number(self, kind: str, what: str) -> int:
        """An unsigned number: `I` of 4 bytes, `Q` of 8."""
        start = self.take(struct.calcsize(kind), what)
        return int(struct.unpack_from(self.order + kind, self.data, start)[0])

    def text(self, what: str) -> None:
        """Steps over a text."""
        self.take(self.number("Q", what), what)

    def value(self) -> None:
        """Steps over a value of the metadata."""
        kind = self.number("I", "metadata")
        count = 1
        if kind == LIST:
            kind, count = self.number("I", "a list"), self.number("Q", "a list")
        if kind == TEXT:
            for _ in range(count):  # ends at the file's end at the latest: each text takes 8 bytes
                self.text("a text")
        elif kind in SIZES:
            self.take(count * SIZES[kind], "a list")
        else:
            raise ValueError(f"a value at byte {self.offset} has no known type")

    def check(self) -> None:
        """The whole header, then the tensors' places."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if self.data[:4] != b"GGUF":
            raise ValueError("it doesn't start with GGUF")
        self.offset = 4
        if not self.number("I", "version") & 0xFFFF:
            self.order = ">"
        tensors, values = self.number("Q", "the tensor count"), self.number("Q", "the metadata count")
        for _ in range(values):
            self.text("a key")
            self.value()
        ends = [0]
        for _ in range(tensors):
            self.text("a tensor's name")
            dimensions = self.number("I", "a tensor")
            if dimensions > DIMENSIONS:
                raise ValueError(f"a tensor at byte {self.offset} claims {dimensions} dimensions")
            amount = math.prod(self.number("Q", "a tensor") for _ in range(dimensions))
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("I", "a tensor"))]
            ends.append(self.number("Q", "a tensor") + math.ceil(amount / block) * size)
        if self.offset + max(ends) > len(self.data):
            raise ValueError(f"its tensors claim {self.offset + max(ends)} bytes, the file has {len(self.data)}")


ADAPTER = "adapter_config.json"
SCALES = (".weight_scale", ".weight_scale_inv", ".weight_packed", ".qweight", ".qzeros", ".absmax", ".SCB")
"""How the names of tensors end that only quantised weights come with."""


def check_folder(folder: Path, name: str) -> None:
    """Raises UsageError for a folder that is no base model in whole safetensors files; the user calls it `name`."""
    from safetensors import SafetensorError, safe_open

    if not (folder / "config.json").is_file():
        reason = f"the folder holds an adapter ({ADAPTER}) and no base model; name the model that it was trained on"
        if not (folder / ADAPTER).exists():
            reason = "the folder has no config.json; expected what save_pretrained writes"
        raise UsageError(f"--model {name}: {reason}")
    if (folder / ADAPTER).exists():  # transformers would load it as a part of the base
        raise UsageError(
            f"--model {name}: an adapter ({ADAPTER}) lies beside the base model, which transformers would load with "
            "it; move the adapter's files out of the folder, or merge it into the base (PEFT's merge_and_unload)"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
        reason = (
            f"{pickled[0].name} is a pickle, which can run code when it is read" if pickled else "it has no weights"
        )
        raise UsageError(f"--model {name}: {reason}; expected *.safetensors (convert it with save_pretrained)")
    for path in files:
        try:
            with safe_open(path, "pt") as opened:  # reads the header and holds it against the file's size
                tensors = opened.keys()
                refuse_scaled(name, path.name, {tensor: opened.get_slice(tensor).get_dtype() for tensor in tensors})
        except SafetensorError as error:
            raise UsageError(f"--model {name}: {path.name} is torn ({error}); copy or download it again") from None
    for path in folder.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(path.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(f"--model {name}: {path.name} is no index of weights; copy or download it again") from None
        if strange := sorted(map(str, named - {file.name for file in files})):
            raise UsageError(f"--model {name}: {path.name} names {strange[0]!r}, which is not in the folder")


def refuse_scaled(name: str, file: str, kinds: Mapping[str, str]) -> None:
    """Raises UsageError where tensors of `file`, by name, are of FP8 or come with scales, whatever config.json says:
    transformers would read the numbers and leave their scales out."""
    for tensor, kind in kinds.items():
        if kind.startswith("F8") or tensor.endswith(SCALES):
            raise UsageError(
                f"--model {name}: its weights are quantised ({file} holds {tensor}, {kind}), and a quantised base "
                "can't be trained here; give the model in full precision"
            )


def separate_head(folder: Path, embedding: str, head: str) -> bool:
    """Whether a folder's files hold an output head of its own, of other numbers than the input embedding's.

    `embedding` and `head` are the names of the two weights in the model, which may begin with more than in the files.
    """
    from safetensors import safe_open

    places: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                for wanted in (embedding, head):
                    if key == wanted or wanted.endswith(f".{key}") or key.endswith(f".{wanted}"):
                        places[wanted] = (path, key)
    if len(places) < 2:
        return False
    (one, first), (other, second) = places[embedding], places[head]
    with safe_open(one, "pt") as left, safe_open(other, "pt") as right:
        rows, others = left.get_slice(first), right.get_slice(second)
        size = rows.get_shape()
        if size != others.get_shape():
            return True
        step = max(1, ROWS // size[1])  # no copy of the whole, which may be gigabytes
        return any(
            not bool((rows[start : start + step] == others[start : start + step]).all())
            for start in range(0, size[0], step)
        )
