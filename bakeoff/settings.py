"""Presets and command line become frozen, checked settings here and nowhere else."""

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.checking import at, build, check, show
from bakeoff.errors import UsageError, nearest

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ROOT / "bench" / "presets"


def setting(default: Any, *, minimum: float | None = None, maximum: float | None = None, above: float | None = None,
            choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    """A dataclass field with its permitted range: [minimum, maximum], greater than `above`, or one of `choices`."""
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: types.MappingProxyType(default), metadata=limits)
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class ModelSettings:
    """The base model that every method starts from."""

    name: str = "smollm2-135m"
    """A known name, a hub id, a folder, a .gguf file, or `random` (built in memory from `architecture`)."""
    revision: str = ""
    """Hub revision; empty: the newest."""
    special_tokens: tuple[str, ...] = ()
    """Tokens added to the vocabulary; the embeddings grow by as many rows."""
    pad_token: str = ""
    """The padding token; empty: the tokenizer's own, else its end token (padding is told by length, never by id)."""
    architecture: Mapping[str, Any] = setting({})
    """A transformers configuration (`model_type` and its keys): counts need no more than this, and `random` is built
    from it."""
    trust_remote_code: bool = False
    """Run Python code that a hub model brings along; typed (--trust-remote-code), never from a file."""


@dataclass(frozen=True)
class TaskSettings:
    """Documents with reference summaries, and how much of them a run sees."""

    name: str = "aclsum/outcome"
    """`aclsum/challenge|approach|outcome|all`, `cnn_dailymail`, `xsum`, `samsum`, a hub id, or a file: .jsonl, .ndjson,
    .json, .csv, .tsv or .parquet, each also as .gz. A name that exists on disk is never taken for a hub id."""
    train: int = setting(100, minimum=0)
    """Training documents; 0: all. A document counts once, however many references or aspects it has."""
    validation: int = setting(50, minimum=0)
    """Validation documents; 0: all."""
    test: int = setting(100, minimum=0)
    """Test documents; 0: all."""
    split_seed: int = setting(0, minimum=0)
    """Draws the sample and, where a file has no split column, the splits. Never the run's own seed."""
    max_input_tokens: int = setting(256, minimum=8)
    """Tokens of prompt, document and separator together; the document is what is truncated."""
    max_target_tokens: int = setting(64, minimum=2)
    """Tokens of the summary, its end token included, in training and in generation."""
    prompt: str = ""
    """Text around `{document}` (and `{aspect}`), ending with the separator; empty: the task's own."""
    instruction: str = ""
    """The user's turn where the model is asked through its chat template; empty: the task's own."""
    template: str = setting("plain", choices=("plain", "chat"))
    """How methods are trained and asked: by `prompt`, or through the model's chat template, with the summary as the
    assistant's turn. `zero-shot` has a setting of its own, methods.zero-shot.prompt."""
    thinking: bool = False
    """Whether a chat template that has a switch for thinking is rendered with it on."""
    document_column: str = ""
    """Column of the document; empty: the task's own, `document` for a file."""
    summary_column: str = ""
    """Column of the summary (a text, or a list of reference summaries); empty: the task's own, `summary` for a file.
    Rows with the same document give its references, too."""
    messages_column: str = ""
    """Column of a chat, a list of turns with `role` and `content`, instead of the two columns above: the last turn of
    the assistant is the summary; what stands before it is the document, turns apart by an empty line and, where the
    assistant speaks among them, each after its role (`user: ...`)."""
    id_column: str = "id"
    """Column of the documents' ids, which may be missing; empty: ids are made of the rows' numbers."""
    split_column: str = "split"
    """Column that says train, validation or test (files only); empty: splits are drawn by `split_seed`."""
    subset: str = ""
    """The configuration of a hub data set; empty: its default."""


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe of one run. A method or `[methods.NAME]` may change any of it for itself."""

    epochs: int = setting(3, minimum=0, maximum=10_000)
    """Passes over the training documents; 0: the method is evaluated as attached."""
    learning_rate: float = setting(1e-3, minimum=0.0, maximum=1e3)
    """Peak learning rate of AdamW; 0: nothing moves."""
    batch_size: int = setting(8, minimum=1)
    """Effective batch: documents per optimizer step."""
    micro_batch_size: int = setting(8, minimum=1)
    """Documents per forward pass; changes memory and speed, not the step."""
    weight_decay: float = setting(0.0, minimum=0.0)
    """AdamW's decoupled decay; 0: off."""
    beta1: float = setting(0.9, minimum=0.0, maximum=0.9999999)
    """AdamW's decay of the first moment."""
    beta2: float = setting(0.999, minimum=0.0, maximum=0.9999999)
    """AdamW's decay of the second moment."""
    schedule: str = setting("linear", choices=("linear", "constant"))
    """Learning rate after the warm-up: falls linearly to 0 at the last step, or stays."""
    warmup: float = setting(0.1, minimum=0.0, maximum=1.0)
    """Share of the steps in which the learning rate rises linearly from 0; 0: none."""
    gradient_clip: float = setting(1.0, minimum=0.0)
    """Clips the global gradient norm at this value; 0: off."""


@dataclass(frozen=True)
class GenerationSettings:
    """How summaries are written: greedily, until the end token or `task.max_target_tokens`."""

    batch_size: int = setting(16, minimum=1)
    """Documents decoded together. In bf16 the text depends on it, so it is part of a run's fingerprint."""


@dataclass(frozen=True)
class ScoringSettings:
    """How summaries are scored; it stands in the signature of the scores."""

    tokenizer: str = setting("rouge-score", choices=("rouge-score", "unicode"))
    """rouge-score: its own, which knows a to z and 0 to 9, with Porter's stemmer. unicode: letters and digits of every
    script, case-folded (NFKC), no stemmer; one letter a token where words are not spaced (Han, kana, Thai, Khmer)."""
    references: str = setting("best", choices=("best", "mean"))
    """Of several references of a document: the best score of each metric, as in rouge-score's `score_multi`, or the
    mean."""


@dataclass(frozen=True)
class MachineSettings:
    """What a run may use; `auto` is resolved once, before the first run, and recorded."""

    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    """auto: cuda where there is one."""
    precision: str = setting("auto", choices=("auto", "bf16", "fp32"))
    """Of frozen weights and of products; trained parameters are always fp32. auto: bf16 where the processor has it."""
    attention: str = setting("auto", choices=("auto", "eager", "sdpa", "flash_attention_2"))
    """Of documents that are read without a gradient where packed and not compiled, else of all. auto: sdpa on cuda; on
    a CPU the quicker of sdpa and eager, timed once a machine, for packed documents in bf16, else eager."""
    packing: bool = True
    """Documents of a micro-batch in one row without padding, on a CPU and where a test of the model with its method
    shows that they see nothing of each other; false: padded."""
    labels_only: bool = True
    """Logits of positions that predict a label token; false: of every position, as a model gives them by itself."""
    fused: bool = True
    """Layers of Llama's kind in fewer passes over memory, where documents are packed; false: transformers' own."""
    compiled: bool = True
    """The C files where layers are fused, compiled once by the machine's GCC; false: torch's operators."""
    shared_prefix: bool = True
    """Tokens with which all documents of a micro-batch begin, once, where documents are packed and enough fall away to
    pay for it (2 % of all; in bf16 with AMX 30 %); false: in each."""
    reuse_trunk: bool = True
    """Where only an untied output head is trained, compute what lies below it once a document; false: every epoch."""
    threads: int = setting(0, minimum=0, maximum=1024)
    """CPU threads of a run; 0: as many as the process may use."""


@dataclass(frozen=True)
class DurabilitySettings:
    """How often an unfinished run is kept; it changes no outcome, so it is no part of a run's fingerprint."""

    checkpoint_seconds: float = setting(120.0, minimum=0.0)
    """Seconds of training between checkpoints, beside the one after each epoch; 0: no others by time."""
    checkpoint_steps: int = setting(0, minimum=0)
    """Optimizer steps between checkpoints; 0: no others by steps."""


@dataclass(frozen=True)
class GateSettings:
    """When the gate calls a run worse than its baseline; changes no run."""

    tolerance: float = setting(1.0, minimum=0.0, maximum=100.0)
    """Points of ROUGE (F1 x 100) that a mean may differ from the baseline's before anything is said; 0: none."""
    alpha: float = setting(0.05, minimum=1e-9, maximum=0.5)
    """Chance of a false alarm over all verdicts of a session together (Holm)."""


@dataclass(frozen=True)
class Settings:
    """Everything a bake-off was asked to do."""

    preset: str = "custom"
    """The preset's name: the report's folder, the key of floors and baselines."""
    description: str = ""
    """One sentence for the report."""
    seeds: tuple[int, ...] = (42,)
    """One run of every method for each."""
    model: ModelSettings = ModelSettings()
    """The base model."""
    task: TaskSettings = TaskSettings()
    """The documents."""
    training: TrainingSettings = TrainingSettings()
    """The recipe, before a method's own changes."""
    generation: GenerationSettings = GenerationSettings()
    """How summaries are written."""
    scoring: ScoringSettings = ScoringSettings()
    """How summaries are scored."""
    machine: MachineSettings = MachineSettings()
    """Device, precision, threads."""
    durability: DurabilitySettings = DurabilitySettings()
    """How often an unfinished run is kept."""
    gate: GateSettings = GateSettings()
    """Tolerance and alpha of `--gate`."""
    methods: Mapping[str, Mapping[str, Any]] = setting({})
    """`[methods.NAME]`: hyperparameters of a method and its changes to `[training]`."""
    changes: Mapping[str, Any] = setting({})
    """What `--set` changed, by dotted key; wins over presets and methods."""
    source: str = ""
    """The preset's file, for messages."""


SECTIONS = {"model": ModelSettings, "task": TaskSettings, "training": TrainingSettings,
            "generation": GenerationSettings, "scoring": ScoringSettings, "machine": MachineSettings,
            "durability": DurabilitySettings, "gate": GateSettings}  # fmt: skip


def blame(settings: "Settings", key: str) -> str:
    """Where `key` got its value, for messages: `--set`, or the preset's file and line."""
    return f"--set {key}" if key in settings.changes else at(settings.source, key)


def preset_path(name: str) -> Path:
    """The file of a preset, by name or by path. Raises UsageError when there is none."""
    if name.endswith(".toml"):
        path = Path(name)
        if not os.path.isfile(path):
            raise UsageError(
                f"--preset {name}: no such file; give a name ({', '.join(preset_names())}) or a .toml file"
            )
        if not path.stem.strip("."):  # it would name the report's folder
            raise UsageError(f"--preset {name}: the file needs a name before .toml")
        return path
    if name not in preset_names():
        raise UsageError(f"--preset {name!r} is not known; {nearest(name, preset_names())}")
    return PRESETS / f"{name}.toml"


def preset_names() -> list[str]:
    """The presets that ship with the benchmark."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(preset: str, *, model: str = "", task: str = "", seeds: str = "", changes: Sequence[str] = ()) -> Settings:
    """Settings of `preset`, changed by the command line; every value is checked here.

    `changes` are `key=value` texts with TOML values (a bare word counts as text). Raises UsageError.
    """
    path = preset_path(preset)
    where = str(path)
    values = read_toml(path)
    methods = values.pop("methods", {})
    if not isinstance(methods, dict) or not all(isinstance(table, dict) for table in methods.values()):
        raise UsageError(f"{at(where, 'methods')}: expected [methods.NAME] tables under 'methods'")
    for name in SECTIONS:
        section(values, name, where)
    if section(values, "model", where).get("trust_remote_code") is True:
        raise UsageError(
            f"{at(where, 'model.trust_remote_code')}: no file can allow that a model runs code of its own; "
            "take it out and type --trust-remote-code"
        )
    changed = dict(parse_change(text) for text in changes)
    if model:
        values["model"] = command_line_model(values.get("model", {}), model)
    if task:
        values["task"] = {**values.get("task", {}), "name": task, "prompt": "", "instruction": ""}
    if seeds:
        values["seeds"] = parse_seeds(seeds)
    for key, value in changed.items():
        apply(values, key, value, where)
    top = {key: value for key, value in values.items() if key not in SECTIONS}
    for reserved in ("changes", "source", "preset"):
        if reserved in top:
            raise UsageError(f"{at(where, reserved)}: {reserved!r} can't be set in a preset")
    sections = {name: build(kind, section(values, name, where), where, f"{name}.") for name, kind in SECTIONS.items()}
    settings = build(Settings, top, where)
    settings = dataclasses.replace(settings, **sections, preset=path.stem, source=where,
                                   methods=freeze(methods), changes=types.MappingProxyType(changed))  # fmt: skip
    contradictions(settings)
    return settings


def command_line_model(preset: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The model table when `--model` replaces the preset's: what described the old model goes with it."""
    if preset.get("name") == name:
        return dict(preset)
    return {"name": name}


def section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The table `[name]` of a preset, empty where it is missing."""
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise UsageError(f"{at(where, name)}: {name} = {table!r}: expected a table [{name}]")
    return table


def freeze(methods: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """A read-only copy of the `[methods.*]` tables."""
    return types.MappingProxyType({name: types.MappingProxyType(dict(table)) for name, table in methods.items()})


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError with file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # beside syntax: a number of thousands of digits, tables too deep
        raise UsageError(f"{path}: not valid TOML: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None


def parse_change(text: str) -> tuple[str, Any]:
    """`key=value` of `--set`, the value read as TOML, else as text."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(f"--set {text!r}: expected key=value, for example --set training.learning_rate=1e-3")
    try:
        [value] = tomllib.loads(f"value = {raw.strip()}").values()
        return key, value
    except (ValueError, RecursionError):
        return key, raw.strip()


def parse_seeds(text: str) -> list[int]:
    """`42,43` as numbers, each once. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise UsageError(f"--seeds {text!r}: expected whole numbers from 0 on, for example --seeds 42,43,44")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r}: a seed stands there twice")
    return seeds


def apply(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Writes a `--set` into the preset's tables; `methods.*` waits until the methods are known."""
    head, _, rest = key.partition(".")
    if head == "methods" and rest.count(".") == 1:
        return
    if key in ("seeds", "description"):
        values[key] = check(value, typing.get_type_hints(Settings)[key], {}, f"--set {key}")
        return
    if head not in SECTIONS or not rest:
        known = [f"{name}.{f.name}" for name, kind in SECTIONS.items() for f in dataclasses.fields(kind)]
        raise UsageError(
            f"--set {key}: not a setting; {nearest(key, [*known, 'seeds', 'description', 'methods.NAME.KEY'])}"
        )
    name, _, deeper = rest.partition(".")
    fields = {f.name: f for f in dataclasses.fields(SECTIONS[head])}
    hint = typing.get_type_hints(SECTIONS[head]).get(name)
    if hint is None or (deeper and typing.get_origin(hint) is not Mapping):
        raise UsageError(f"--set {key}: {rest!r} is not a setting of [{head}]; {nearest(rest, fields)}")
    table = dict(values.get(head, {}))
    if deeper:
        before = check(table.get(name, {}), hint, {}, f"{at(where, f'{head}.{name}')}: {head}.{name}")
        value = {**before, deeper: value}
    table[name] = check(value, hint, fields[name].metadata, f"--set {key}")
    values[head] = table


def contradictions(settings: Settings) -> None:
    """Settings that are valid alone and not together."""
    if not settings.seeds:
        raise UsageError(f"{blame(settings, 'seeds')}: seeds is empty; give at least one, for example seeds = [42]")
    if any(not 0 <= seed < 2**32 for seed in settings.seeds) or len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(
            f"{blame(settings, 'seeds')}: seeds = {show(list(settings.seeds))}: "
            f"expected different whole numbers from 0 to {2**32 - 1}"
        )
    training, task = settings.training, settings.task
    if training.micro_batch_size > training.batch_size:
        raise UsageError(
            f"{blame(settings, 'training.micro_batch_size')}: training.micro_batch_size = {training.micro_batch_size} "
            f"is above training.batch_size = {training.batch_size}; "
            f"type --set training.micro_batch_size={training.batch_size}"
        )
    if task.prompt and task.prompt.count("{document}") != 1:
        raise UsageError(f"{blame(settings, 'task.prompt')}: task.prompt must hold {{document}} exactly once")
    if task.instruction and task.instruction.count("{document}") != 1:
        raise UsageError(f"{blame(settings, 'task.instruction')}: task.instruction must hold {{document}} exactly once")
    for key in ("prompt", "instruction"):
        if escape := re.search(r"\\[nrt]", getattr(task, key)):
            quoted = getattr(task, key).replace('"', '\\"')
            raise UsageError(
                f"{blame(settings, f'task.{key}')}: task.{key} holds {escape[0]} as two characters, not as one; put "
                f"the value in double quotes: --set 'task.{key}=\"{quoted}\"'"
            )
    added = settings.model.special_tokens
    if len(set(added)) < len(added) or any(not token for token in added):
        raise UsageError(
            f"{blame(settings, 'model.special_tokens')}: model.special_tokens must be different and not empty"
        )
    if settings.model.name == "random" and not settings.model.architecture:
        raise UsageError(
            f"{settings.source}: model.name = 'random' needs a table [model.architecture] with a model_type"
        )


def plain(value: Any) -> Any:
    """Settings as JSON holds them: dataclasses and tables as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
