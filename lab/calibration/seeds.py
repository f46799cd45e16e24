"""Many seeds of one method on one preset, kept as per-document scores: what the calibration is fitted to.

`python -m lab.calibration.seeds` trains ten seeds of LoRA on the preset `ci` and writes
`bench/baselines/ci.seeds.json`. Finished runs are not repeated.
"""

import argparse
import json
import sys
from pathlib import Path

from bakeoff.config import presets
from bakeoff.session import plan, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store
from bakeoff.shipped import ROOT

SCORES = ROOT / "bench" / "baselines" / "ci.seeds.json"
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
    runs = session.runs(options.method)
    content = {
        "preset": chosen.preset,
        "model": chosen.model.name,
        "task": chosen.task.name,
        "signature": runs[0].signature,
        "method": options.method,
        "seeds": list(chosen.seeds),
        "document_ids": runs[0].document_ids,
        "scores": {
            metric: [[round(value, DIGITS) for value in run.scores[metric]] for run in runs]
            for metric in runs[0].scores
        },
    }
    SCORES.parent.mkdir(parents=True, exist_ok=True)
    SCORES.write_text(render(content), encoding="utf-8")
    print(SCORES)


def render(content: dict) -> str:
    """JSON with a line for every seed."""
    lines = []
    for key, value in content.items():
        if key == "scores":
            metrics = ",\n".join(
                f'  "{metric}": [\n' + ",\n".join(f"   {json.dumps(row)}" for row in rows) + "\n  ]"
                for metric, rows in value.items()
            )
            lines.append(f' "scores": {{\n{metrics}\n }}')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
