"""Many seeds of methods on one preset, measured once: what comparisons with one seed borrow, and the simulation fits.

`python -m lab.calibration.seeds --preset quick --method all --seeds 1,2,3,4,5` trains them and writes, beside the
baselines in `bench/baselines/`, `PRESET.seeds.json` (the score of every document) and `PRESET.calibration.json` (the
variance between seeds by method and metric). Finished runs are not repeated.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.config import presets
from bakeoff.config.schema import Settings
from bakeoff.gate import seed_variance
from bakeoff.metrics.rouge import METRICS
from bakeoff.runs.records import RunResult
from bakeoff.session import plan, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store
from bakeoff.shipped import ROOT
from bakeoff.stats.contrasts import components

BASELINES = ROOT / "bench" / "baselines"
DIGITS = 5


def main() -> None:
    """Trains and writes."""
    parser = argparse.ArgumentParser(prog="python -m lab.calibration.seeds", description=__doc__)
    parser.add_argument("--preset", default="ci")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--seeds", default=",".join(map(str, range(1, 11))))
    parser.add_argument("--store", default=str(ROOT / ".bakeoff"))
    options = parser.parse_args()
    store = Store(Path(options.store))
    worker.start_server(offline=True)
    chosen = presets.load(options.preset, seeds=options.seeds)
    session = Session(plan.make(chosen, [options.method], store), store, Progress(sys.stdout, live=False))
    names = [entry.name for entry in session.plan.entries if not entry.control]
    content = scores(chosen, {name: session.runs(name) for name in names})
    for path, text in (
        (path_of(chosen.preset), render(content)),
        (seed_variance.path_of(chosen.preset, BASELINES), calibration(chosen, content)),
    ):
        path.write_text(text, encoding="utf-8")
        print(path)


def path_of(preset: str) -> Path:
    """Where the scores are kept."""
    return BASELINES / f"{preset}.seeds.json"


def scores(chosen: Settings, results: Mapping[str, Sequence[RunResult]]) -> dict[str, Any]:
    """What is kept of the runs: by method and metric, seeds x documents."""
    first = next(iter(results.values()))[0]
    return {
        "preset": chosen.preset,
        "model": chosen.model.name,
        "task": chosen.task.name,
        "signature": first.signature,
        "seeds": list(chosen.seeds),
        "document_ids": first.document_ids,
        "settings": {name: seed_variance.measured_settings(runs[0].spec) for name, runs in results.items()},
        "methods": {
            name: {
                metric: [[round(value, DIGITS) for value in run.scores[metric]] for run in runs] for metric in METRICS
            }
            for name, runs in results.items()
        },
    }


def calibration(chosen: Settings, content: Mapping[str, Any]) -> str:
    """The variances of the kept scores, as comparisons read them."""
    methods = {}
    for name, found in content["methods"].items():
        variances = {metric: components(rows) for metric, rows in found.items()}
        known = {metric: one for metric, one in variances.items() if one is not None}
        settings = content.get("settings", {}).get(name, {})
        methods[name] = seed_variance.Measured(len(content["seeds"]), known, settings)
    return seed_variance.dump(chosen, content["signature"], methods)


def render(content: Mapping[str, Any]) -> str:
    """JSON with a line for every seed of a method."""
    lines = []
    for key, value in content.items():
        if key == "methods":
            methods = ",\n".join(
                f"  {json.dumps(name)}: {{\n"
                + ",\n".join(
                    f"   {json.dumps(metric)}: [\n" + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n   ]"
                    for metric, rows in found.items()
                )
                + "\n  }"
                for name, found in value.items()
            )
            lines.append(f' "methods": {{\n{methods}\n }}')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
