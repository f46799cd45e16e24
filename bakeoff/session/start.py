"""From command-line options to a session that is ready to run."""

import contextlib
import datetime
import json
import os
import shlex
import signal
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock

from bakeoff import engine, report
from bakeoff.config import presets, project, schema
from bakeoff.config.hardware import expects_card
from bakeoff.core.errors import UsageError
from bakeoff.core.validation import at
from bakeoff.gate import baseline
from bakeoff.gate.seed_variance import Loans
from bakeoff.report import published
from bakeoff.report.tuning import record
from bakeoff.scoring import registry
from bakeoff.session import executors, plan, tracking, worker
from bakeoff.session.gatekeeper import Gatekeeper
from bakeoff.session.ledger import Ledger
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store


def load_settings(options: Namespace) -> schema.Settings:
    """Settings of the options' preset, changed by the other options. Raises UsageError, also for what is read or
    written when the runs are made: a wrong floor or a report that can't be kept costs seconds now, hours then."""
    changes = [
        *options.changes,
        *(["model.trust_remote_code=true"] if getattr(options, "trust_remote_code", False) else []),
    ]
    chosen = presets.load(options.preset, model=options.model, task=options.task, seeds=options.seeds, changes=changes)
    chosen = registry.add(chosen, getattr(options, "metric", ()))
    record.counts(chosen)
    floors(chosen, "")
    keepable(getattr(options, "report_dir", ""))
    return chosen


def keepable(folder: str) -> None:
    """Raises UsageError where a report can't be written to `folder`, which need not exist; empty: the default."""
    if folder and not writable(Path(folder)):
        raise UsageError(f"--report-dir {folder}: a report can't be kept there; name a folder that can be written to")


def writable(folder: Path) -> bool:
    """Whether files can be written to a folder, which need not exist."""
    there = folder
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    long = any(len(os.fsencode(part)) > 255 for part in folder.parts)
    return not long and os.path.isdir(there) and os.access(there, os.W_OK)


def sharing(options: Namespace) -> int:
    """How many runs share the processor of one machine: on other machines each has what it asks for."""
    return int(getattr(options, "parallel", 0) or 1) if getattr(options, "executor", "local") == "local" else 1


def start(
    options: Namespace, file: TextIO | None, live: bool, newline: Callable[[], None], shared: str = ""
) -> Session:
    """A session for the command line's options. Raises UsageError for what the user can mend.

    `shared` is what `share` says of the session of which this process is a worker.
    """
    chosen = load_settings(options)
    trackers = tracking.chosen(getattr(options, "track", ()))
    known: dict[str, Any] = json.loads(shared) if shared else {"found": None, "ledger": "", "group": ""}
    loans, others = Loans.read(chosen), published.beside(chosen)
    metrics = registry.load(chosen, getattr(options, "metric", ()))
    store = Store(Path(options.store))
    plan.configured(chosen, options.method or ["all"])  # what it refuses needs no second of waiting
    where, parallel = getattr(options, "executor", "local"), getattr(options, "parallel", 0)
    executors.named(where, parallel, chosen.machine.device)
    worker.start_server(offline=not plan.on_hub(chosen.model.name, chosen.task.name))
    beside = threading.Thread(target=ahead, args=(chosen, store, known["found"] is None), daemon=True)
    beside.start()
    try:
        planned = plan.make(chosen, options.method or ["all"], store, known["found"], sharing(options))
        executor = executors.choose(where, parallel, store, planned.found)
    except worker.Died as died:
        raise UsageError(f"preparing the runs failed: {died}; see {store.logs / 'prepare.log'}") from None
    finally:
        beside.join()  # nothing else computes while a run is timed
    group = known["group"] or f"{chosen.preset}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    tracked = tracking.Tracking(trackers, group, report_folder(options, chosen).parent / "tracking")
    progress = Progress(file, live=live, newline=newline)
    progress.board.at_once = executor.count
    specs = (spec for seeds in planned.specs.values() for spec in seeds)
    progress.board.expect(specs, lambda fingerprint: not options.fresh and store.folder(fingerprint).is_dir())
    if reason := planned.found["no compiler"]:
        progress.note(f"using torch operators (slower): the C kernels could not be compiled: {reason}")
    for note in planned.found["notes"]:
        progress.note(note)
    return Session(planned, store, progress, fresh=options.fresh, ledger=Ledger(known["ledger"]),
                   loans=loans, published=others, run_timeout=options.run_timeout, executor=executor,
                   tracking=tracked, metrics=metrics)  # fmt: skip


def report_folder(options: Namespace, chosen: schema.Settings) -> Path:
    """Where the report goes."""
    return Path(getattr(options, "report_dir", "") or project.own("reports", chosen.preset))


def ahead(chosen: schema.Settings, store: Store, new: bool) -> None:
    """What needs no torch, while another process imports it: the C compiler for a `new` plan, then what a report needs.

    A compiler that fails here fails again where its reason is wanted. What the plan decides by time waits for the lock.
    """
    ways = chosen.engine
    fast = ways.compiled and ways.fused and ways.packing and chosen.machine.engine != "plain"
    with FileLock((store.root / plan.MACHINE).with_suffix(".lock")):
        if new and fast and not expects_card(chosen.machine.device):
            with contextlib.suppress(engine.NoCompiler, OSError):
                engine.compile_ahead(store.root / engine.KERNELS)
        report.prepare(store.root / report.PAGE if chosen.report.page else None)


def baseline_path(options: Namespace, chosen: schema.Settings) -> Path:
    """The file of the preset's accepted scores: to be written, the project's; to be read, also one that ships."""
    if options.baseline:
        return Path(options.baseline)
    parts = ("bench", "baselines", f"{chosen.preset}.json")
    return (None if options.update_baseline else presets.find_beside(chosen, *parts)) or project.own(*parts)


def share(session: Session) -> str:
    """What the workers of `pytest -n N` need to know of the session, as text."""
    ledger, group = str(session.ledger.folder), session.tracking.group
    return json.dumps({"found": session.plan.found, "ledger": ledger, "group": group})


def keep(options: Namespace, session: Session) -> Gatekeeper | None:
    """The keeper of the gate, None where nothing of it was asked for. Raises UsageError."""
    update = options.update_baseline
    if not (options.gate or options.gate_strict or update):
        return None
    if update and (options.gate or options.gate_strict):
        raise UsageError("--update-baseline accepts what --gate would judge; type one of them")
    option = "--update-baseline" if update else "--gate"
    chosen = session.plan.settings
    methods = [entry.name for entry in session.plan.entries if not entry.control]
    if not methods:
        raise UsageError(f"{option}: only controls are selected, and they have no baseline; add --method lora")
    if update and len(chosen.seeds) < baseline.SEEDS:
        raise UsageError(
            f"--update-baseline needs {baseline.SEEDS} seeds or more, got {len(chosen.seeds)}; type {updating(options)}"
        )
    path = baseline_path(options, chosen)
    return Gatekeeper(session, path, update=update, strict=options.gate_strict, remedy=updating(options))


def updating(options: Namespace) -> str:
    """The command that accepts what these options measure."""
    words = ["pytest", "bench/", "--preset", options.preset]
    for name in ("method", "changes"):
        for value in getattr(options, name):
            words += ["--set" if name == "changes" else "--method", value]
    for name in ("model", "task", "baseline"):
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    seeds = options.seeds if options.seeds.count(",") >= baseline.SEEDS - 1 else "1,2,3,4,5"
    return f"{shlex.join(words)} --seeds {seeds} --update-baseline"


def floors(chosen: schema.Settings, method: str) -> dict[str, float] | None:
    """ROUGE floors (F1 x 100) of a method under a preset: the project's, else for a preset that ships those that ship.

    None where there are none for this model and task. Raises UsageError for a file that is not as it must be.
    """
    files = project.places("bench", "thresholds.toml")
    files = [path for path in files[: 2 if project.ships(chosen.source) else 1] if path.is_file()]
    path = next((path for path in files if chosen.preset in presets.read_toml(path)), None)
    return floors_in(path, chosen, method) if path else None


def floors_in(path: Path, chosen: schema.Settings, method: str) -> dict[str, float] | None:
    """Those in one thresholds.toml."""
    table = presets.read_toml(path).get(chosen.preset, {})
    if not isinstance(table, dict):
        raise UsageError(f"{at(str(path), chosen.preset)}: expected a table [{chosen.preset}]")
    for name, values in table.items():
        numbers = values.values() if isinstance(values, dict) else [values]
        if name not in ("model", "task") and not all(type(value) in (int, float) for value in numbers):
            raise UsageError(f"{at(str(path), f'{chosen.preset}.{name}')}: {name}: expected floors as numbers")
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
