"""From command-line options to a session that is ready to run."""

import signal
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from bakeoff import plan, settings, worker
from bakeoff.errors import UsageError
from bakeoff.progress import Progress
from bakeoff.session import Session
from bakeoff.store import Store


def load_settings(options: Namespace) -> settings.Settings:
    """Settings of the options' preset, changed by the other options. Raises UsageError."""
    changes = [
        *options.changes,
        *(["model.trust_remote_code=true"] if getattr(options, "trust_remote_code", False) else []),
    ]
    return settings.load(options.preset, model=options.model, task=options.task, seeds=options.seeds, changes=changes)


def start(options: Namespace, file: TextIO | None, live: bool, newline: Callable[[], None]) -> Session:
    """A session for the command line's options. Raises UsageError for what the user can mend."""
    chosen = load_settings(options)
    store = Store(Path(options.store))
    worker.start_server(offline=not plan.on_hub(chosen))
    try:
        planned = plan.make(chosen, options.method or ["all"], store)
    except worker.Died as died:
        raise UsageError(f"preparing the runs failed: {died}; see {store.logs / 'prepare.log'}") from None
    return Session(planned, store, Progress(file, live=live, newline=newline), fresh=options.fresh,
                   run_timeout=options.run_timeout)  # fmt: skip


def floors(path: Path, chosen: settings.Settings, method: str) -> dict[str, float] | None:
    """ROUGE floors (F1 x 100) of a method under a preset; None where the file has none for this model and task."""
    table = settings.read_toml(path).get(chosen.preset, {})
    if table.get("model") != chosen.model.name or table.get("task") != chosen.task.name:
        return None
    return table.get(method)


def stop_on_sigterm() -> Callable[[], None]:
    """Makes SIGTERM stop a bake-off as Ctrl-C does; returns what undoes it."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        return lambda: None

    def undo() -> None:
        signal.signal(signal.SIGTERM, before)

    return undo
