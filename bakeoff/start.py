"""From command-line options to a session that is ready to run."""

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from bakeoff import plan, settings, worker
from bakeoff.errors import UsageError
from bakeoff.progress import Progress
from bakeoff.session import Session, trials
from bakeoff.store import Store


def load_settings(options: Namespace) -> settings.Settings:
    """Settings of the options' preset, changed by the other options. Raises UsageError, also for what is read or
    written when the runs are made: a wrong floor or a report that can't be kept costs seconds now, hours then."""
    changes = [
        *options.changes,
        *(["model.trust_remote_code=true"] if getattr(options, "trust_remote_code", False) else []),
    ]
    chosen = settings.load(options.preset, model=options.model, task=options.task, seeds=options.seeds, changes=changes)
    trials(chosen)
    floors(settings.ROOT / "bench" / "thresholds.toml", chosen, "")
    keepable(getattr(options, "report_dir", ""))
    return chosen


def keepable(folder: str) -> None:
    """Raises UsageError where a report can't be written to `folder`, which need not exist; empty: the default."""
    if not folder:
        return
    there = Path(folder)
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    long = any(len(os.fsencode(part)) > 255 for part in Path(folder).parts)
    if long or not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise UsageError(f"--report-dir {folder}: a report can't be kept there; name a folder that can be written to")


def start(options: Namespace, file: TextIO | None, live: bool, newline: Callable[[], None]) -> Session:
    """A session for the command line's options. Raises UsageError for what the user can mend."""
    chosen = load_settings(options)
    store = Store(Path(options.store))
    worker.start_server(offline=not plan.on_hub(chosen))
    try:
        planned = plan.make(chosen, options.method or ["all"], store)
    except worker.Died as died:
        raise UsageError(f"preparing the runs failed: {died}; see {store.logs / 'prepare.log'}") from None
    return Session(planned, store, Progress(file, live=live, newline=newline), fresh=options.fresh)


def floors(path: Path, chosen: settings.Settings, method: str) -> dict[str, float] | None:
    """ROUGE floors (F1 x 100) of a method under a preset; None where the file has none for this model and task."""
    table = settings.read_toml(path).get(chosen.preset, {})
    if not isinstance(table, dict):
        raise UsageError(f"{settings.at(str(path), chosen.preset)}: expected a table [{chosen.preset}]")
    for name, values in table.items():
        numbers = values.values() if isinstance(values, dict) else [values]
        if name not in ("model", "task") and not all(type(value) in (int, float) for value in numbers):
            raise UsageError(f"{settings.at(str(path), f'{chosen.preset}.{name}')}: {name}: expected floors as numbers")
    if table.get("model") != chosen.model.name or table.get("task") != chosen.task.name:
        return None
    return table.get(method)
