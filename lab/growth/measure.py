"""How a bake-off grows: time and memory of its parts over the number of runs and of documents.

`python -m lab.growth` writes reports/growth/report.md. No model computes: runs are simulated, of the smoke preset's
methods with as many seeds as it takes, and stored, found, compared and reported by what a bake-off does it with.
"""

import argparse
import dataclasses
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bakeoff import report
from bakeoff.config import hardware, presets, project
from bakeoff.core.files import replace
from bakeoff.metrics.rouge import Prediction
from bakeoff.report import comparison
from bakeoff.report.page.write import write_report
from bakeoff.runs.records import Reloaded, RunResult, RunSpec
from bakeoff.runs.resources import Memory
from bakeoff.scoring import registry
from bakeoff.session import plan, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store
from lab.growth import documents

RUNS = (100, 1_000, 10_000)
DOCUMENTS = (10_000, 100_000, 1_000_000)
METHODS = ("lora", "full", "last-layer", "soft-prompt", "bitfit", "dora", "rslora", "prefix", "ia3", "vera")
PAPERS, STEPS = 100, 100
"""Test documents and optimizer steps of a simulated run."""
LIMIT = 10**9
"""Bytes that the process which makes a bake-off may take."""
PARTS = ("plan", "store", "find", "metrics", "compare", "report", "page")
STAGES = ("load and split", "encode", "batch")
"""What a bake-off does with documents before it trains."""
WORDS = documents.words(random.Random(0))
NOISE = 1.3
"""How much longer than n log n a part may take over ten times as many: what two measurements differ by."""


class Stages:
    """Seconds of parts, in their order, and the bytes that the process took in each at its peak."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        memory = Memory("cpu")  # its peak begins anew
        memory.base = 0  # everything that the process takes
        begun = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - begun
        peak = memory.read()["max_resident"]
        if peak is None:
            raise SystemExit("lab.growth: only Linux says how much memory a process took (/proc)")
        self.bytes[part] = peak


def of_runs(count: int, folder: str) -> dict[str, Any]:
    """Seconds of each part of a bake-off of `count` runs, and the resident bytes at their peaks."""
    stages, root = Stages(), Path(folder)
    store, seeds = Store(root / "store"), ",".join(map(str, range(count // len(METHODS))))
    chosen = presets.load("smoke", seeds=seeds, changes=[f"task.test={PAPERS}"])
    with stages("plan"):
        planned = plan.make(chosen, METHODS, store)
    specs = [spec for method in METHODS for spec in planned.specs[method]]
    with stages("store"):
        for number, spec in enumerate(specs):
            keep(store, spec, number)
    session = Session(planned, store, Progress(None, live=False), metrics=registry.load(chosen, ()))
    with stages("find"):
        for method in METHODS:
            session.runs(method)
    with stages("metrics"):
        beside = session.beside(session.results, session.metrics)
    with stages("compare"):
        compared = comparison.compare(chosen, session.results, [], {}, None, [], beside)
    written = {name: store.predictions(runs[0].fingerprint) for name, runs in session.results.items()}
    settings = dataclasses.replace(chosen, report=dataclasses.replace(chosen.report, page=False))
    with stages("report"):
        path = report.write(dataclasses.replace(compared, settings=settings), written, root / "report", None, None)
    with stages("page"):
        write_report(compared, written, path.parent, None, store.root / report.PAGE)
    sizes = {name: path.with_name(name).stat().st_size for name in ("report.md", "index.html", "results.json")}
    bytes_of = {f"{part} bytes": count for part, count in stages.bytes.items()}
    return {"runs": count, **stages.seconds, **bytes_of, "resident_bytes": max(stages.bytes.values()), **sizes}


def keep(store: Store, spec: RunSpec, number: int) -> None:
    """Stores a simulated run."""
    draw = random.Random(number)
    level = 0.2 + 0.02 * METHODS.index(spec.method) + draw.gauss(0, 0.01)
    ids = [f"paper-{place}" for place in range(PAPERS)]
    texts = [[" ".join(draw.choices(WORDS, k=length)) for length in (120, 20, 20)] for _ in ids]
    scores = {metric: [min(1.0, max(0.0, draw.gauss(level, 0.1))) for _ in ids]
              for metric in ("rouge1", "rouge2", "rougeL", "rougeLsum")}  # fmt: skip
    counts = {"total": 10_000, "trainable": 1_000, "frozen": 9_000, "tied": 0, "tied_trainable": 0}
    digest = f"{number:064x}"
    reloaded = [Reloaded(id=name, aspect="", summary=text[2], again=text[2])
                for name, text in zip(ids[:4], texts[:4], strict=True)]  # fmt: skip
    result = RunResult(
        fingerprint=spec.fingerprint, spec=dataclasses.asdict(spec), scores=scores, document_ids=ids,
        parameters={"expected": counts, "requires_grad": counts, "optimizer": 1_000, "saved": 1_000},
        steps=[{"step": step, "epoch": 1 + step // 51, "loss": 3 / step, "learning_rate": 1e-3, "gradient_norm": 1.0}
               for step in range(1, STEPS + 1)],
        epochs=[{"epoch": epoch, "training_loss": 3.0, "validation_loss": 3 - epoch / 4 + draw.random() / 9,
                 "best": int(epoch == 2)} for epoch in range(3)],
        seconds={"setup": 1.0, "training": 9.0, "validation": 1.0, "evaluation": 3.0, "checks": 1.0},
        tokens={"training": 10_000, "labels": 1_000, "generated": 400},
        memory_bytes={"max_resident": 10**9}, adapter_bytes=4_000, finished="2026-01-01T00:00:00+00:00",
        evidence={"frozen_before": digest, "frozen_after": digest, "frozen_changed": [], "trained": digest,
                  "reloaded_trained": digest, "reloaded": reloaded, "layout": {"packed": "", "head": "", "steady": ""}},
    )  # fmt: skip
    made = [Prediction(name, text, gist, summary) for name, (text, gist, summary) in zip(ids, texts, strict=True)]
    with store.staging(spec.fingerprint) as folder:
        store.commit(folder, result, made)


def too_slow(rows: Sequence[Mapping[str, Any]], size: str, parts: Sequence[str]) -> list[str]:
    """Parts that took longer over the last size than n log n from the one before allows."""
    before, last = rows[-2:]
    allowed = NOISE * last[size] * math.log(last[size]) / (before[size] * math.log(before[size]))
    return [part for part in parts if last[part] > 0.5 and last[part] > allowed * before[part]]


def grown(runs: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parts that grew worse than n log n."""
    return [*too_slow(runs, "runs", PARTS), *too_slow(read, "documents", STAGES)]


def peak(*rows: Sequence[Mapping[str, Any]]) -> int:
    """The most bytes that any process took."""
    return max(row["resident_bytes"] for some in rows for row in some)


def text(runs: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]], dates: str = "") -> str:
    """The report; `dates` says when its parts were measured."""
    slow = grown(runs, read)
    most = peak(runs, read)
    machine = hardware.environment()
    verdict = f"worse than n log n grew: {', '.join(slow)}" if slow else "no part grew worse than n log n"
    under = "stayed under" if most < LIMIT else "did not stay under"
    ten = {part: read[-1][part] / read[-1]["documents"] * 1e7 / 60 for part in STAGES}
    lines = [
        "# Growth", "",
        f"From {runs[-2]['runs']:,} to {runs[-1]['runs']:,} runs and from {read[-2]['documents']:,} to "
        f"{read[-1]['documents']:,} documents, {verdict}. The process {under} 1 GB: "
        f"it took at most {most / 1e6:,.0f} MB.", "",
        f"Machine: {machine['processor']}, {hardware.available_threads()} threads. A part that took less than half a "
        f"second is not judged; two measurements of a part may differ by {NOISE - 1:.0%}. {dates}".strip(), "",
        "## Runs", "",
        f"Simulated runs of {len(METHODS)} methods, each with {PAPERS} test documents and {STEPS} steps. Seconds:", "",
        table(runs, {"runs": "runs", **{part: part for part in PARTS}}), "",
        "The most bytes that the process took in each part, MB:", "",
        table([{"runs": row["runs"], **{part: row[f"{part} bytes"] / 1e6 for part in PARTS}} for row in runs],
              {"runs": "runs", **{part: part for part in PARTS}}), "",
        "What it leaves:", "",
        table([{**row,
                **{name: row[name] / 1e6 for name in ("report.md", "index.html", "results.json")}} for row in runs],
              {"runs": "runs", "report.md": "report.md, MB",
               "index.html": "index.html, MB", "results.json": "results.json, MB"}), "",
        "`plan` finds what is asked and names each run; `store` writes the runs; `find` reads them and checks every "
        "byte; `metrics` computes what stands beside ROUGE; `compare` tests differences; `report` writes report and "
        "plots; `page` writes the page, with its library.", "",
        "## Documents", "",
        f"Texts of {documents.WORDS} words on average, in a file of the user's own. Seconds:", "",
        table([{**row, "resident MB": row["resident_bytes"] / 1e6} for row in read],
              {"documents": "documents", **{part: part for part in STAGES}, "resident MB": "resident MB"}), "",
        "If time goes on growing as the number of documents, ten million take "
        + ", ".join(f"{minutes:.0f} min to {part}" for part, minutes in ten.items())
        + ". That was computed from the last row, not measured.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Some columns of rows, by their headings."""
    cells = [[f"{row[key]:,}" if isinstance(row[key], int) else f"{row[key]:,.2f}" for key in columns] for row in rows]
    return tabulate(cells, headers=list(columns.values()), tablefmt="github", disable_numparse=True,
                    colalign=["right"] * len(columns))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the report, and ends with 1 where something grew too fast or too large."""
    parser = argparse.ArgumentParser(prog="python -m lab.growth", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few runs and documents: a rehearsal")
    parser.add_argument("--only", choices=("runs", "documents"), help="measure one part; the other is that of the last "
                        "command, from the folder of reports, and keeps its date")  # fmt: skip
    parser.add_argument("--reports", default=str(project.own("reports", "growth")), help="where the report goes")
    parser.add_argument("--runs", type=int, help=argparse.SUPPRESS)  # as a process of its own, whose memory is read
    options = parser.parse_args(arguments)
    worker.start_server(offline=True)
    if options.runs:
        print(json.dumps(of_runs(options.runs, options.reports)))
        return 0
    target = Path(options.reports)
    target.mkdir(parents=True, exist_ok=True)
    for name, measure in (("runs", measured_runs), ("documents", measured_documents)):
        if options.only in (None, name):
            made = {"date": time.strftime("%Y-%m-%d"), "rows": measure(options.short)}
            replace(target / f"{name}.json", (json.dumps(made, indent=1) + "\n").encode())
    if missing := [name for name in ("runs", "documents") if not (target / f"{name}.json").is_file()]:
        print(f"{target}: nothing of {missing[0]} was measured yet; type python -m lab.growth --only {missing[0]}")
        return 2
    kept = {name: json.loads((target / f"{name}.json").read_text()) for name in ("runs", "documents")}
    runs, read = (kept[name]["rows"] for name in ("runs", "documents"))
    found = text(runs, read, f"Runs were measured on {kept['runs']['date']}, documents on {kept['documents']['date']}.")
    replace(target / "report.md", found.encode())
    print(found)
    return int(bool(grown(runs, read)) or peak(runs, read) >= LIMIT)


def measured_runs(short: bool) -> list[dict[str, Any]]:
    """A row for each number of runs, each measured in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (20, 200) if short else RUNS:
            print(f"{count} runs", flush=True)
            (place := Path(folder, str(count))).mkdir()
            command = [sys.executable, "-m", "lab.growth", "--runs", str(count), "--reports", str(place)]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    return rows


def measured_documents(short: bool) -> list[dict[str, Any]]:
    """A row for each number of documents."""
    print("documents", flush=True)
    model = presets.load("smoke").model if short else None
    with tempfile.TemporaryDirectory() as folder:
        models, log = Store(project.own(".bakeoff")).models, Path(folder, "log")
        return list(documents.measure(Path(folder), models, log, (500, 1_000) if short else DOCUMENTS, model))
