"""Measures Bakeoff against Trainer with PEFT and `generate`: the same work, interleaved, a process an arm.

python -m lab.speed                                       everything, at most 40 minutes on two cores
python -m lab.speed --only lora --shape quick --rounds 1  one part of it
python -m lab.speed --short                               seconds on a tiny model: that it works, not how fast
"""

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch

from bakeoff.config import presets
from bakeoff.session import worker
from bakeoff.session.store import Store
from bakeoff.shipped import ROOT
from lab.gpu import measure as gpu
from lab.growth import documents as growth
from lab.speed import report, work
from lab.speed.shapes import METHODS, SHAPES, specs

PHASES = ("check", "train", "utilisation", "fp32", "generate", "switches", "growth")
SWITCHES = (  # kind of arm, method, setting: what one speed-up brings, where the quick shape has it
    ("train", "lora", "packing"), ("train", "lora", "fused"), ("train", "lora", "compiled"),
    ("train", "last-layer", "cached_features"), ("train", "soft-prompt", "shared_prefix"),
    ("generate", "lora", "packing"), ("generate", "lora", "fused"), ("generate", "lora", "compiled"),
)  # fmt: skip
IMPLIED = {"packing": ("packing", "shared_prefix", "fused", "compiled"), "fused": ("fused", "compiled")}
"""What a setting switches off besides itself, as machine.resolve does it."""
REPEATED = ("utilisation", "training, ", "writing")
"""How the names of the comparisons begin that every round makes."""
BATCHES = (8, 16, 32)
TEXT_LENGTHS = 0.25
"""How far apart the numbers of tokens may be that two arms generate in bf16, whose greedy text depends on the batch."""


class Lab:
    """Runs arms in processes of their own and keeps what they measured."""

    def __init__(self, store: Store, folder: Path, batches: tuple[int, ...], documents: int) -> None:
        self.store, self.folder, self.batches, self.documents = store, folder, batches, documents
        self.found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.checks: list[dict[str, Any]] = []
        self.peaks: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        self.round = 0
        self.left_out: list[str] = []
        """Comparisons for which there was no time."""
        self.started = time.monotonic()
        self.precision = ""  # the one that Bakeoff takes on this machine, once the first run is planned
        self._specs: dict[tuple[str, str, bool], dict[str, Any]] = {}

    def spec(self, shape: str, method: str, precision: str = "auto", *, whole: bool = False) -> dict[str, Any]:
        """The planned run, made once."""
        key = shape, precision, whole
        if key not in self._specs:
            self._specs[key] = specs(shape, precision, self.store, self.documents, whole=whole)
        found = self._specs[key][method]
        if precision == "auto":
            self.precision = found["machine"]["precision"]
        return found

    def arm(
        self, kind: str, shape: str, method: str, who: str, *, precision: str = "auto", whole: bool = False,
        **changes: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """One arm (`train` or `generate`), timed; `who` is bakeoff, an opponent, or `without SWITCH`."""
        from lab.speed import arms

        spec = self.spec(shape, method, precision, whole=whole)
        precision = spec["machine"]["precision"]
        if who.startswith("without "):
            switch = who.removeprefix("without ")
            spec = {**spec, "machine": {**spec["machine"], **dict.fromkeys(IMPLIED.get(switch, [switch]), False)}}
        opponent = who.startswith(report.OPPONENTS)
        job = {
            "spec": spec, "cache": str(self.store.models), "folder": str(self.folder), "opponent": opponent,
            "bf16": precision == "bf16", "grouped": False, "documents": 0, "save": "", "adapter": "", "batch": 0,
            **changes,
        }  # fmt: skip
        found = worker.call(getattr(arms, kind), job, log=self.store.logs / "speed.log")
        found["round"] = self.round
        part = "subset" if job["documents"] else "whole" if whole else "all"
        self.found["/".join((kind, shape, method, who, precision, part))].append(found)
        rate = found["tokens"] / found["seconds"]
        others = found["load"]["others"]
        say(f"{self.elapsed():5.0f} s  {kind:8} {shape:6} {method:12} {who:16} {precision} "
            f"{found['seconds']:7.2f} s {rate:7.0f} tokens/s  peak {(found['peak'] or 0) / 1e6:6.0f} MB"
            + (f"  others {others:.0%}" if others is not None else ""))  # fmt: skip
        return found

    def elapsed(self) -> float:
        """Seconds since the lab opened."""
        return time.monotonic() - self.started

    def agree(self, what: str, kind: str, value: float, precision: str = "") -> None:
        """Remembers a check that held."""
        self.checks.append({"what": what, "kind": kind, "precision": precision or self.precision, "value": value})

    def seconds(self, kind: str, shape: str, method: str, names: Iterable[str]) -> dict[str, float]:
        """Median seconds of those of the arms `names` that ran on all documents."""
        arms = {who: self.found.get(f"{kind}/{shape}/{method}/{who}/{self.precision}/all") for who in names}
        return {who: median(found) for who, found in arms.items() if found}

    def adapter(self, shape: str, method: str) -> Path:
        """Where a training of this run leaves its adapter."""
        return self.folder / f"{shape}-{method}"

    # The comparisons of one round

    def check(self, shape: str, method: str, fp32: bool) -> None:
        """Equal work on a few documents. Raises Unequal."""
        few: Any = {"documents": SHAPES[shape].subset}
        own = self.spec(shape, method)["machine"]["precision"]
        for precision in dict.fromkeys((own, "fp32")) if fp32 else (own,):
            bf16 = precision == "bf16"
            place = str(self.folder / f"check-{shape}-{method}")
            ours = self.arm("train", shape, method, "bakeoff", precision=precision, save=place, **few)
            # Texts one at a time: with PEFT, `generate` puts the padding between virtual tokens and prompt.
            theirs = self.arm("train", shape, method, "trainer", precision=precision, adapter=place, batch=1, **few)
            what = f"{method}, {shape}, {precision}"
            gap = work.same_curve(what, ours["losses"], theirs["losses"], bf16=bf16)
            self.agree(what, "loss by step", gap, precision)
            logits = (numpy.load(arm["logits"], mmap_mode="r") for arm in (ours, theirs))
            gap = work.same_logits(what, *logits, bf16=bf16)
            self.agree(what, "teacher-forced log-probabilities", gap, precision)
            if not bf16:
                self.agree(what, "equal texts", work.same_texts(what, ours["texts"], theirs["texts"]), precision)

    def fp32(self, shape: str, method: str) -> None:
        """Trainer in fp32 as it comes, for Bakeoff as it comes of the same round, where that is not fp32 itself."""
        if self.spec(shape, method)["machine"]["precision"] != "fp32":
            self.arm("train", shape, method, "trainer", precision="fp32")

    def train(self, shape: str, method: str) -> None:
        """One round of training; both orders of the Trainer, until one was slower on the same documents."""
        ours = self.arm("train", shape, method, "bakeoff", save=str(self.adapter(shape, method)))
        orders = ("trainer", "trainer-grouped")
        seen = next(filter(None, (self.seconds("train", shape, other, orders) for other in METHODS)), {})
        for who in [min(seen, key=lambda who: seen[who])] if seen else orders:
            theirs = self.arm("train", shape, method, who, grouped=who == "trainer-grouped")
            what = f"{method}, {shape}, {who}"
            work.same_number(f"{what}, tokens trained on", ours["tokens"], theirs["tokens"])
            work.same_number(f"{what}, optimizer steps", len(ours["losses"]), len(theirs["losses"]))
            if who == "trainer":
                what = f"{method}, {shape}, {self.precision}, all documents"
                # Steps that follow each other widen what rounding began, in fp32 as in bf16.
                self.agree(what, "loss by step", work.same_curve(what, ours["losses"], theirs["losses"], bf16=True))

    def generate(self, shape: str, method: str) -> None:
        """One round of generation with the adapter that this run trained; batch sizes that lost are left out."""
        place = self.adapter(shape, method)
        if not place.exists():
            self.arm("train", shape, method, "bakeoff", save=str(place))
        ours = self.arm("generate", shape, method, "bakeoff", adapter=str(place))
        same = self.spec(shape, method)["generation"]["batch_size"]
        sizes = sorted({*self.batches, same})
        seen = self.seconds("generate", shape, method, [f"generate-{size}" for size in sizes])
        best = min(seen, key=lambda who: seen[who]) if seen else ""
        for size in sizes if not seen else sorted({same, int(best.rpartition("-")[2])}):
            theirs = self.arm("generate", shape, method, f"generate-{size}", adapter=str(place), batch=size)
            what = f"{method}, {shape}, generate-{size}"
            gap = work.same_number(f"{what}, tokens", ours["tokens"], theirs["tokens"], within=TEXT_LENGTHS)
            self.agree(what, "tokens generated", gap)

    def switched(self, shape: str, kind: str, method: str, switch: str) -> None:
        """Bakeoff with one speed-up switched off, against Bakeoff as it comes, which must have it there."""
        if switch == "shared_prefix" and self.precision == "bf16":
            return  # a soft prompt is too small a part of a row
        if self.seconds(kind, shape, method, ["bakeoff"]) and self.spec(shape, method)["machine"][switch]:
            found: Any = {"adapter": str(self.adapter(shape, method))} if kind == "generate" else {}
            self.arm(kind, shape, method, f"without {switch}", **found)

    def utilisation(self, shape: str, lora: bool) -> None:
        """The device's matrix-product peak in Bakeoff's precision and, in the same minute, LoRA's whole training."""
        from lab.speed import flops

        lengths = 8 * (180 if shape == "quick" else 600)
        products = [(576, 576), (576, 192), (576, 1536), (1536, 576)]
        machine = self.spec(shape, "lora")["machine"]
        precision, device = machine["precision"], machine["device"]
        log = self.store.logs / "speed.log"
        found = worker.call(flops.measure_peak, products, lengths, 2, precision, device, log=log)
        self.peaks[shape][self.round] = found
        best = max(found, key=lambda name: found[name])
        say(f"{self.elapsed():5.0f} s  {precision} product peak {found[best] / 1e9:.0f} GFLOP/s ({best})")
        if lora:
            self.arm("train", shape, "lora", "bakeoff", whole=True)


def median(arms: list[dict[str, Any]]) -> float:
    """Of the arms' seconds."""
    return float(numpy.median([arm["seconds"] for arm in arms]))


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def main() -> int:
    """Runs what the command line asks for and writes the report; 1 when two arms did not do the same work.

    A machine with a GPU is measured by lab.gpu, whose work is large enough for one.
    """
    options = command_line().parse_args()
    if torch.cuda.is_available():
        say("this machine has a GPU, which lab.gpu measures")
        return gpu.main([])
    shapes = ["short"] if options.short else options.shape or ["quick", "long"]
    methods = options.only or list(METHODS)
    phases = options.phase or PHASES
    rounds = 1 if options.short else options.rounds
    store = Store(Path(options.store))
    worker.start_server(offline=True)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(store, Path(folder), (2, 4) if options.short else BATCHES, options.documents)
        log, rows, scored = store.logs / "speed.log", [], None
        try:
            lab.spec(shapes[0], methods[0])
            if "growth" in phases:
                sizes, model = (500, 1_000) if options.short else growth.SIZES, presets.load("smoke").model
                rows = growth.measure(Path(folder), store.models, log, sizes, model if options.short else None)
                scored = worker.call(growth.scored, 100 if options.short else 10_000, 100, log=log)
            compare(lab, shapes, methods, phases, rounds, options.minutes * 60)
        except work.Unequal as error:
            say(f"not the same work, so nothing is reported: {error}")
            return 1
        except worker.Died as died:
            say(f"an arm died: {died}; see {log}")
            return 1
    say(report.write(Path(options.reports), lab, rows, scored))
    return 0


def compare(lab: Lab, shapes: list[str], methods: list[str], phases: Any, rounds: int, seconds: float) -> None:
    """Rounds, while one fits into what is left of `seconds` since the lab opened.

    A comparison is expected to take what it took before; a new one, as long as the longest of its kind so far.
    """
    took: dict[str, float] = {}
    for number in range(1, rounds + 1):
        lab.round = number
        for what, comparison in one_round(lab, shapes, methods, phases, first=number == 1):
            before, kind = lab.elapsed(), what.partition(",")[0]
            alike = [took[name] for name in took if name.partition(",")[0] == kind] or [*took.values(), 0.0]
            if before + took.get(what, max(alike)) > seconds:
                lab.left_out.append(f"round {number}: {what}")
                continue
            comparison()
            took[what] = lab.elapsed() - before
        if lab.elapsed() + sum(took[what] for what in took if what.startswith(REPEATED)) > seconds:
            say(f"{number} of {rounds} rounds fit into {seconds / 60:g} minutes")
            break
    for line in lab.left_out:
        say(f"left out for lack of time: {line}")


def one_round(
    lab: Lab, shapes: list[str], methods: list[str], phases: Any, first: bool
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every comparison once, by name; what one speed-up brings in the first round only, at its end."""
    for shape in shapes:
        if "utilisation" in phases:
            yield f"utilisation, {shape}", partial(lab.utilisation, shape, "lora" in methods)
    for method, shape in itertools.product(methods, shapes):
        what = f"{method}, {shape}"
        if "check" in phases and first:
            yield f"equal work, {what}", partial(lab.check, shape, method, shape != "long" or method == "lora")
        if "train" in phases:
            yield f"training, {what}", partial(lab.train, shape, method)
        if "fp32" in phases and method == "lora" and first:
            yield f"training in fp32, {what}", partial(lab.fp32, shape, method)
        if "generate" in phases and method == "lora":
            yield f"writing, {what}", partial(lab.generate, shape, method)
    for shape in shapes:
        if "switches" in phases and shape != "long" and first:
            for switch in SWITCHES:
                yield f"what {switch[2]} brings to {switch[0]} with {switch[1]}", partial(lab.switched, shape, *switch)


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m lab.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=METHODS, help="default: all three")
    parser.add_argument("--shape", action="append", choices=["quick", "long"], help="default: both")
    parser.add_argument("--phase", action="append", choices=PHASES, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="fewer where they don't fit into --minutes")
    parser.add_argument("--minutes", type=float, default=39, help="for everything, from the start")
    parser.add_argument("--documents", type=int, default=0, help="training documents; 0: as many as the shape has")
    parser.add_argument("--short", action="store_true", help="a tiny model, seconds; nothing is timed in earnest")
    parser.add_argument("--store", default=str(ROOT / ".bakeoff"))
    parser.add_argument("--reports", default=str(ROOT / "reports" / "speed"))
    return parser
