"""Chooses learning rates on the validation split, with the same number of trials for every method.

`python -m lab.tune` trains each method of the quick preset at each learning rate of its grid, reads nothing but the
loss on the validation documents (a trial sees one test document, whose score is not looked at), and records every
trial in `bench/presets/quick.trials.json`. The preset then holds the best of each; put it there by hand, so that a
preset stays a file that people wrote. Finished trials are not repeated.
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

GRID = {  # five each, around the value that is usual for the method
    "lora": (3e-4, 6e-4, 1e-3, 2e-3, 4e-3),
    "soft-prompt": (3e-3, 1e-2, 3e-2, 6e-2, 1e-1),
    "last-layer": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "full": (1e-5, 2e-5, 5e-5, 1e-4, 2e-4),
}


def main() -> None:
    """Runs every trial and prints the best of each method."""
    parser = argparse.ArgumentParser(prog="python -m lab.tune", description=__doc__)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--method", action="append", choices=GRID, help="default: all four")
    parser.add_argument("--store", default=str(ROOT / ".bakeoff"))
    options = parser.parse_args()
    record = presets.preset_path(options.preset).with_suffix(".trials.json")
    trials = json.loads(record.read_text())["trials"] if record.is_file() else []
    store = Store(Path(options.store))
    worker.start_server(offline=True)
    for method in options.method or GRID:
        for rate in GRID[method]:
            trial = run(options.preset, method, rate, store)
            trials = [row for row in trials if (row["method"], row["learning_rate"]) != (method, rate)] + [trial]
            trials.sort(key=lambda row: (row["method"], row["learning_rate"]))
            record.write_text(
                json.dumps({"criterion": "lowest validation loss of any epoch", "trials": trials}, indent=1) + "\n"
            )
        ours = [row for row in trials if row["method"] == method]
        best = min(ours, key=lambda row: row["validation_loss"] if row["validation_loss"] is not None else float("inf"))
        print(
            f"{method}: learning_rate = {best['learning_rate']:g} (validation loss {best['validation_loss']:.4f})",
            flush=True,
        )


def run(preset: str, method: str, rate: float, store: Store) -> dict[str, object]:
    """One trial: validation loss by epoch, None where training diverged."""
    changes = [f"methods.{method}.learning_rate={rate!r}", "task.test=1"]
    planned = plan.make(presets.load(preset, changes=changes), [method], store)
    session = Session(planned, store, Progress(sys.stdout, live=False))
    trial = {"method": method, "learning_rate": rate, "seed": planned.settings.seeds[0]}
    try:
        result = session.runs(method)[0]
    except worker.Died as died:
        return {**trial, "validation_loss": None, "cause": str(died)}
    losses = [round(row["validation_loss"], 4) for row in result.epochs]
    return {
        **trial,
        "validation_loss": min(losses[1:]),
        "by_epoch": losses,
        "epochs": result.spec["training"]["epochs"],
    }


if __name__ == "__main__":
    main()
