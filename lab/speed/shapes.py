"""The work that speed is measured on: real text at two lengths, and a handful of seconds for CI."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bakeoff.config import presets
from bakeoff.data import readers, sources
from bakeoff.session import plan
from bakeoff.session.store import Store

METHODS = ("lora", "soft-prompt", "last-layer")


@dataclass(frozen=True)
class Shape:
    """Documents of one length, and how many of them."""

    preset: str
    train: int
    """Documents of the timed training; a multiple of the effective batch."""
    test: int
    """Documents of the timed generation."""
    subset: int
    """Documents, one epoch, on which equal work is checked."""
    epochs: tuple[int, int, int]
    """Of the timed training, one for each of METHODS."""
    whole: tuple[int, int]
    """Documents and epochs of the training whose utilisation is measured: the preset's own."""
    changes: tuple[str, ...] = ()
    """Settings beside the preset's."""


SHAPES = {
    "quick": Shape("quick", train=16, test=48, subset=8, epochs=(1, 1, 5), whole=(100, 3)),
    "long": Shape("quick", train=8, test=16, subset=8, epochs=(1, 1, 5), whole=(100, 3),
                  changes=("task.max_input_tokens=512", "task.max_target_tokens=128")),
    "short": Shape("smoke", train=8, test=4, subset=8, epochs=(1, 1, 2), whole=(8, 2)),
}  # fmt: skip


def specs(
    name: str, precision: str, store: Store, documents: int = 0, *, whole: bool = False
) -> dict[str, dict[str, Any]]:
    """The run of every method on a shape as plain data, by method: planned as `pytest bench/` plans it.

    `whole` is the training that is as long as a bake-off's.
    """
    shape = SHAPES[name]
    train, passes = (shape.whole[0], shape.whole[1:] * len(METHODS)) if whole else (shape.train, shape.epochs)
    sizes = [f"task.train={documents or train}", "task.validation=1", f"task.test={shape.test}"]
    epochs = [f"methods.{m}.epochs={n}" for m, n in zip(METHODS, passes, strict=True)]
    untied = ["methods.last-layer.untie=true", "machine.threads=2", f"machine.precision={precision}"]
    task = ""
    if name == "long":
        task = str(long_papers(store.root / "speed" / "long.jsonl"))
    chosen = presets.load(shape.preset, task=task, changes=[*shape.changes, *sizes, *epochs, *untied])
    return {method: asdict(runs[0]) for method, runs in plan.make(chosen, METHODS, store).specs.items()}


def long_papers(path: Path) -> Path:
    """Writes ACLSum's papers as abstract and introduction with their three summaries in one: about 1,000 tokens to 90.

    Real text of 512 input tokens is what is left when the preset cuts it.
    """
    folder = sources.package_folder("aclsum", "the ACLSum papers") / "aclsum" / "dataset"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for stem, split in (("train", "train"), ("val", "validation"), ("test", "test")):
            for _, paper in readers.read_jsonl(folder / f"{stem}.jsonl"):
                text = " ".join([*paper["sentences"]["abstract"], *paper["sentences"]["introduction"]])
                summary = " ".join(paper["summary"][aspect] for aspect in sources.ASPECTS)
                row = {"id": paper["id"], "document": text, "summary": summary, "split": split}
                file.write(json.dumps(row) + "\n")
    return path
