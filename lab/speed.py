"""Measures Bakeoff against Trainer with PEFT and `generate`: the same work, interleaved, a process an arm.

python -m lab.speed                                       everything, at most 40 minutes on two cores
python -m lab.speed --only lora --shape quick --rounds 1  one part of it
python -m lab.speed --short                               seconds on a tiny model: that it works, not how fast
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy

from bakeoff import settings, worker
from bakeoff.store import Store
from lab import growth, speed_report, work
from lab.shapes import METHODS, SHAPES, specs

PHASES = ("check", "train", "fp32", "generate", "switches", "growth")
SWITCHES = (  # kind of arm, method, setting: what one speed-up brings, where the quick shape has it
    ("train", "lora", "packing"), ("train", "lora", "fused"), ("train", "last-layer", "reuse_trunk"),
    ("generate", "lora", "packing"), ("generate", "lora", "fused"),
)  # fmt: skip
BATCHES = (8, 16, 32)
TEXT_LENGTHS = 0.25
"""How far apart the numbers of tokens may be that two arms generate in bf16, whose greedy text depends on the batch."""


class Lab:
    """Runs arms in processes of their own and keeps what they measured."""

    def __init__(self, store: Store, folder: Path, batches: tuple[int, ...], documents: int) -> None:
        self.store, self.folder, self.batches, self.documents = store, folder, batches, documents
        self.found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.checks: list[dict[str, Any]] = []
        self.peaks: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.started = time.monotonic()
        self._specs: dict[tuple[str, str], dict[str, Any]] = {}

    def spec(self, shape: str, method: str, precision: str) -> dict[str, Any]:
        """The planned run, made once."""
        key = shape, precision
        if key not in self._specs:
            self._specs[key] = specs(shape, precision, self.store, self.documents)
        return self._specs[key][method]

    def arm(self, kind: str, shape: str, method: str, who: str, *, bf16: bool = True, **changes: Any) -> dict[str, Any]:
        """One arm (`train` or `generate`), timed; `who` is bakeoff, an opponent, or `without SWITCH`."""
        from lab import arms

        spec = self.spec(shape, method, "bf16" if bf16 else "fp32")
        if who.startswith("without "):
            spec = {**spec, "machine": {**spec["machine"], who.removeprefix("without "): False}}
        job = {"spec": spec, "cache": str(self.store.models),
               "folder": str(self.folder), "opponent": who.startswith(speed_report.OPPONENTS), "bf16": bf16,
               "grouped": False, "documents": 0, "save": "", "adapter": "", "batch": 0, **changes}  # fmt: skip
        found = worker.call(getattr(arms, kind), job, log=self.store.logs / "speed.log")
        part = "subset" if job["documents"] else "all"
        self.found["/".join((kind, shape, method, who, "bf16" if bf16 else "fp32", part))].append(found)
        rate = found["tokens"] / found["seconds"]
        others = found["load"]["others"]
        say(f"{self.elapsed():5.0f} s  {kind:8} {shape:6} {method:12} {who:16} {'bf16' if bf16 else 'fp32'} "
            f"{found['seconds']:7.2f} s {rate:7.0f} tokens/s  peak {(found['peak'] or 0) / 1e6:6.0f} MB"
            + (f"  others {others:.0%}" if others is not None else ""))  # fmt: skip
        return found

    def elapsed(self) -> float:
        """Seconds since the lab opened."""
        return time.monotonic() - self.started

    def agree(self, what: str, kind: str, value: float, bf16: bool = True) -> None:
        """Remembers a check that held."""
        self.checks.append({"what": what, "kind": kind, "precision": "bf16" if bf16 else "fp32", "value": value})

    def adapter(self, shape: str, method: str) -> Path:
        """Where a training of this run leaves its adapter."""
        return self.folder / f"{shape}-{method}"

    # The comparisons of one round

    def check(self, shape: str, method: str, fp32: bool) -> None:
        """Equal work on a few documents. Raises Unequal."""
        few = {"documents": SHAPES[shape].subset}
        for bf16 in (True, False) if fp32 else (True,):
            place = str(self.folder / f"check-{shape}-{method}")
            ours = self.arm("train", shape, method, "bakeoff", bf16=bf16, save=place, **few)
            # Texts one at a time: with PEFT, `generate` puts the padding between virtual tokens and prompt.
            theirs = self.arm("train", shape, method, "trainer", bf16=bf16, adapter=place, batch=1, **few)
            what = f"{method}, {shape}, {'bf16' if bf16 else 'fp32'}"
            gap = work.same_curve(what, ours["losses"], theirs["losses"], bf16=bf16)
            self.agree(what, "loss by step", gap, bf16)
            logits = (numpy.load(arm["logits"], mmap_mode="r") for arm in (ours, theirs))
            self.agree(what, "teacher-forced log-probabilities", work.same_logits(what, *logits, bf16=bf16), bf16)
            if not bf16:
                self.agree(what, "equal texts", work.same_texts(what, ours["texts"], theirs["texts"]), bf16)

    def fp32(self, shape: str, method: str) -> None:
        """Trainer in fp32 as it comes, for Bakeoff as it comes of the same round."""
        self.arm("train", shape, method, "trainer", bf16=False)

    def train(self, shape: str, method: str) -> None:
        """One round of training; the slower order of the Trainer is left out after the first."""
        ours = self.arm("train", shape, method, "bakeoff", save=str(self.adapter(shape, method)))
        key = f"train/{shape}/{method}/"
        seen = {who: median(self.found[f"{key}{who}/bf16/all"]) for who in ("trainer", "trainer-grouped")
                if self.found.get(f"{key}{who}/bf16/all")}  # fmt: skip
        keep = [min(seen, key=lambda who: seen[who])] if seen else ["trainer", "trainer-grouped"]
        for who in keep:
            theirs = self.arm("train", shape, method, who, grouped=who == "trainer-grouped")
            work.same_tokens(f"{method}, {shape}, {who}", ours["tokens"], theirs["tokens"], within=0.0)
            if who == "trainer":
                what = f"{method}, {shape}, bf16, all documents"
                self.agree(what, "loss by step", work.same_curve(what, ours["losses"], theirs["losses"], bf16=True))

    def generate(self, shape: str, method: str) -> None:
        """One round of generation with the adapter that this run trained; batch sizes that lost are left out."""
        place = self.adapter(shape, method)
        if not place.exists():
            self.arm("train", shape, method, "bakeoff", save=str(place))
        ours = self.arm("generate", shape, method, "bakeoff", adapter=str(place))
        same = self.spec(shape, method, "bf16")["generation"]["batch_size"]
        key = f"generate/{shape}/{method}/generate-"
        seen = {size: median(self.found[f"{key}{size}/bf16/all"]) for size in {*self.batches, same}
                if self.found.get(f"{key}{size}/bf16/all")}  # fmt: skip
        for size in sorted({same, min(seen, key=lambda s: seen[s])} if seen else {*self.batches, same}):
            theirs = self.arm("generate", shape, method, f"generate-{size}", adapter=str(place), batch=size)
            what = f"{method}, {shape}, generate-{size}"
            gap = work.same_tokens(what, ours["tokens"], theirs["tokens"], within=TEXT_LENGTHS)
            self.agree(what, "tokens generated", gap)

    def switches(self, shape: str) -> None:
        """Bakeoff with one speed-up switched off at a time, against Bakeoff as it comes."""
        for kind, method, switch in SWITCHES:
            if self.found.get(f"{kind}/{shape}/{method}/bakeoff/bf16/all"):
                found = {"adapter": str(self.adapter(shape, method))} if kind == "generate" else {}
                self.arm(kind, shape, method, f"without {switch}", **found)

    def peak(self, shape: str) -> None:
        """The processor's matrix-product peak, now."""
        from lab import flops

        lengths = 8 * (180 if shape == "quick" else 600)
        products = [(576, 576), (576, 192), (576, 1536), (1536, 576)]
        found = worker.call(flops.measure_peak, products, lengths, 2, log=self.store.logs / "speed.log")
        self.peaks[shape].append(found)
        best = max(found, key=lambda name: found[name])
        say(f"{self.elapsed():5.0f} s  bf16 product peak {found[best] / 1e9:.0f} GFLOP/s ({best})")


def median(arms: list[dict[str, Any]]) -> float:
    """Of the arms' seconds."""
    return float(numpy.median([arm["seconds"] for arm in arms]))


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def main() -> int:
    """Runs what the command line asks for and writes the report; 1 when two arms did not do the same work."""
    options = command_line().parse_args()
    shapes = ["short"] if options.short else options.shape or ["quick", "long"]
    methods = options.only or list(METHODS)
    phases = options.phase or PHASES
    rounds = 1 if options.short else options.rounds
    store = Store(Path(options.store))
    worker.start_server(offline=True)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(store, Path(folder), (2, 4) if options.short else BATCHES, options.documents)
        try:
            for round_number in range(1, rounds + 1):
                before = lab.elapsed()
                one_round(lab, shapes, methods, phases, first=round_number == 1)
                spent = lab.elapsed() - before
                if lab.elapsed() + spent > options.minutes * 60:
                    say(f"{round_number} of {rounds} rounds fit into {options.minutes} minutes")
                    break
        except work.Unequal as error:
            say(f"not the same work, so nothing is reported: {error}")
            return 1
        except worker.Died as died:
            say(f"an arm died: {died}; see {store.logs / 'speed.log'}")
            return 1
        rows, scored = [], None
        if "growth" in phases:
            sizes, model = (500, 1_000) if options.short else growth.SIZES, settings.load("smoke").model
            log = store.logs / "speed.log"
            rows = growth.measure(Path(folder), store.models, log, sizes, model if options.short else None)
            scored = worker.call(growth.scored, 100 if options.short else 10_000, 100, log=log)
    say(speed_report.write(Path(options.reports), lab, rows, scored))
    return 0


def one_round(lab: Lab, shapes: list[str], methods: list[str], phases: Any, first: bool) -> None:
    """Every comparison once."""
    for shape in shapes:
        if "train" in phases and shape != "short":
            lab.peak(shape)
        for method in methods:
            if "check" in phases and first:
                lab.check(shape, method, fp32=shape != "long" or method == "lora")
            if "train" in phases:
                lab.train(shape, method)
            if "fp32" in phases and method == "lora" and first:
                lab.fp32(shape, method)
            if "generate" in phases and method == "lora":
                lab.generate(shape, method)
        if "switches" in phases and shape != "long":
            lab.switches(shape)


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m lab.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=METHODS, help="default: all three")
    parser.add_argument("--shape", action="append", choices=["quick", "long"], help="default: both")
    parser.add_argument("--phase", action="append", choices=PHASES, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="as many of them as fit into --minutes")
    parser.add_argument("--minutes", type=float, default=38)
    parser.add_argument("--documents", type=int, default=0, help="training documents; 0: as many as the shape has")
    parser.add_argument("--short", action="store_true", help="a tiny model, seconds; nothing is timed in earnest")
    parser.add_argument("--store", default=str(settings.ROOT / ".bakeoff"))
    parser.add_argument("--reports", default=str(settings.ROOT / "reports" / "speed"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
