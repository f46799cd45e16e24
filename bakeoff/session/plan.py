"""What was asked for becomes runs: settings, methods, model, data and machine, all checked before the first run."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from bakeoff.config import hardware
from bakeoff.config.schema import (
    MachineSettings,
    ModelSettings,
    ScoringSettings,
    Settings,
    TaskSettings,
    TrainingSettings,
    plain,
)
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.files import write_whole
from bakeoff.core.validation import build
from bakeoff.data.sources import remote
from bakeoff.methods.registry import Entry, configure, refuse_unread, select
from bakeoff.runs.records import RunSpec
from bakeoff.session import worker
from bakeoff.session.store import Store

WAY = ("core", "config", "metrics", "data", "methods", "models", "engine", "runs")
"""The folders on a run's way: a change in a file of one of them makes another run. Reports are not among them."""
PACKAGE = Path(__file__).resolve().parents[1]
MACHINE = "machine.json"
"""What was timed of this machine, in a store. Who holds its lock computes something else."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a bake-off, in order, by method."""

    settings: Settings
    entries: tuple[Entry, ...]
    specs: dict[str, tuple[RunSpec, ...]]
    """Method name to one RunSpec a seed; a control has one, since its rows don't depend on the seed."""
    found: dict[str, Any]
    """What `probe` found: hashes of model and data, the machine resolved, its compiler and its GPU."""


def make(settings: Settings, asked: Sequence[str], store: Store, found: dict[str, Any] | None = None) -> Plan:
    """The checked plan for `--method asked`. Raises UsageError for everything that a user can mend.

    `found` is what another process's plan found, which is then not checked again.
    """
    chosen = configured(settings, asked)
    methods = [(entry.name, str(entry.file), plain(method)) for entry, (method, _) in chosen]
    found = found or worker.call(
        probe, plain(settings.model), plain(settings.task), plain(settings.scoring), plain(settings.machine), methods,
        str(store.models), log=store.logs / "prepare.log",
    )  # fmt: skip
    hashes = {"model": found["model"], "data": found["data"], "source": source_sha256()}
    versions = {**hardware.versions(), "compiler": found["compiler"], **found["card"]}
    specs = {}
    for entry, (_, recipe) in chosen:
        seeds = settings.seeds[:1] if entry.control else settings.seeds
        specs[entry.name] = tuple(
            RunSpec(
                method=entry.name,
                control=entry.control,
                method_file=str(entry.file),
                hyperparameters=found["methods"][entry.name],
                seed=seed,
                model=plain(settings.model),
                task=plain(settings.task),
                training={} if entry.control else plain(recipe),
                generation=plain(settings.generation),
                scoring=plain(settings.scoring),
                machine=found["machine"],
                hashes={**hashes, "method": entry.sha256, "prompt": found["prompts"].get(entry.name, "")},
                versions=versions,
            )
            for seed in seeds
        )
    return Plan(settings, tuple(entry for entry, _ in chosen), specs, found)


def configured(settings: Settings, asked: Sequence[str]) -> list[tuple[Entry, tuple[Any, TrainingSettings]]]:
    """The methods of `--method asked`, each with its hyperparameters and recipe. Raises UsageError."""
    entries = select(asked)
    refuse_unread(settings, entries)
    return [(entry, configure(entry, settings)) for entry in entries]


def probe(
    model: dict[str, Any],
    task: dict[str, Any],
    scoring: dict[str, Any],
    asked: dict[str, Any],
    methods: list[tuple[str, str, dict[str, Any]]],
    cache: str,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Runs in a process of its own: hashes of model and data, the machine resolved, its compiler, and each method's
    hyperparameters as the model decides them. Raises UsageError."""
    from bakeoff.data import tasks
    from bakeoff.data.encoding import Encoder, template_of
    from bakeoff.engine.attention import replaceable, virtual_tokens
    from bakeoff.engine.cpu import native
    from bakeoff.engine.cpu.compiler import PLACE, NoCompiler
    from bakeoff.methods.registry import load_file
    from bakeoff.metrics.rouge import Scorer
    from bakeoff.models import blueprint, loading, positions
    from bakeoff.runs.attaching import fitted

    where = hardware.resolve(build(MachineSettings, asked, "run"))
    settings = build(ModelSettings, model, "run")
    documents = build(TaskSettings, task, "run")
    scorer = Scorer(build(ScoringSettings, scoring, "run"))
    loaded = tasks.load(documents, scorer)
    covered = scorer.coverage((example.id, example.references) for example in loaded.examples.test)
    if covered.refusal:
        raise UsageError(f"--task {loaded.name}: {covered.refusal}")
    source = loading.locate(settings)
    with ThreadPoolExecutor(1) as beside:
        # The C compiler works while Python converts a model.
        compiled = beside.submit(native.build, Path(cache).parent / PLACE) if where.compiled else None
        folder = loading.prepare(source, Path(cache))
    tokenizer = loading.load_tokenizer(settings, folder)
    compiler, why = "not asked for", ""
    if compiled:
        try:
            compiler = compiled.result()
        except NoCompiler as missing:
            compiler, why, where = "none", str(missing), dataclasses.replace(where, compiled=False)
    wanted = where.attention
    # Torch's own kernel takes a quick exp, exact to 20 bits: enough for bf16, and none of what fp32 is asked for.
    if (
        asked["attention"] == "auto"
        and where.packing
        and where.precision == "bf16"
        and replaceable(loading.meta_model(settings, folder))
    ):
        wanted = remembered(Path(cache).parent / MACHINE, where)
    chosen = loading.attention(settings, folder, wanted, forced=asked["attention"] != "auto")
    base = blueprint.builder(settings, folder, len(tokenizer))
    decided, notes = {}, [covered.note] if covered.note else []
    prompts: dict[str, str] = {}
    encoders: dict[str, Encoder] = {}
    for name, file, hyperparameters in methods:
        entry = next(entry for entry in load_file(Path(file)) if entry.name == name)
        method = build(entry.kind, hyperparameters, file)
        if entry.needs_model:
            method, _, attached = fitted(entry, method, base, settings.name)
            refuse_text(entry.name, method, tokenizer)
            template = template_of(method, documents)
            if template not in encoders:
                encoders[template] = Encoder(tokenizer, loaded, documents, loading.end_tokens(folder), template)
                notes += checked(encoders[template], settings.name)
            prompts[name] = encoders[template].sha256()
            longest = documents.max_input_tokens
            if template == "chat" and positions.limited(attached):  # a template's words are more
                longest = encoders[template].longest()
            note = positions.check(attached, f"method {name!r}", settings.name, longest, virtual_tokens(attached),
                                   documents.max_target_tokens)  # fmt: skip
            notes += [note] * bool(note)
        decided[name] = plain(method)
    return {
        "model": source.sha256,
        "data": loaded.sha256,
        "machine": plain(dataclasses.replace(where, attention=chosen)),
        "compiler": compiler,
        "card": hardware.card(where.device),
        "no compiler": why,
        "methods": decided,
        "prompts": prompts,
        "notes": notes,
    }


def refuse_text(name: str, method: Any, tokenizer: Any) -> None:
    """Raises UsageError where a method has settings that it can't use with this tokenizer."""
    if hasattr(method, "check"):
        try:
            method.check(tokenizer)
        except (UsageError, ValueError) as error:
            why = first_line(error)
            raise UsageError(
                f"method {name!r}: {why}{'' if '; ' in why else f'; change --set methods.{name}.KEY'}"
            ) from None


def checked(encoder: Any, name: str) -> list[str]:
    """What must be said of the texts that the model called `name` will be asked. Raises UsageError."""
    try:
        return list(encoder.check())
    except UsageError as error:
        raise UsageError(f"--model {name}: {error}") from None


def remembered(file: Path, where: MachineSettings) -> str:
    """The quicker attention of this processor, timed once and kept in `file`: the same in every later bake-off.

    A file that is not what was written is written anew.
    """
    from bakeoff.engine.attention import quicker
    from bakeoff.engine.cpu.kernels import BLOCK

    key = (f"{hardware.processor()}, torch {hardware.versions()['torch']}, {where.precision}, {where.threads} threads, "
           f"{'compiled' if where.compiled else 'torch'} softmax, {BLOCK} queries")  # fmt: skip
    with FileLock(file.with_suffix(".lock")):
        try:
            known = {str(name): dict(found) for name, found in json.loads(file.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            known = {}
        if known.get(key, {}).get("attention") not in ("eager", "sdpa"):
            choice, seconds = quicker(where)
            known[key] = {"attention": choice, "seconds": seconds}
            write_whole(file, (json.dumps(known, indent=1) + "\n").encode())
        return str(known[key]["attention"])


def source_sha256(package: Path = PACKAGE) -> str:
    """Of every source file, Python and C, in the folders on a run's way: their names and what stands in them."""
    digest = hashlib.sha256()
    for folder in WAY:
        for file in sorted((package / folder).rglob("*.*")):
            if file.suffix in (".py", ".c", ".h"):
                digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def on_hub(settings: Settings) -> bool:
    """Whether the user named a model or data set that comes over the network."""
    model, task = settings.model.name, settings.task.name
    remote_model = "/" in model and not os.path.exists(os.path.expanduser(model)) and not model.endswith(".gguf")
    return remote_model or remote(task)
