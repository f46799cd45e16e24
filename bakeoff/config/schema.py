"""Every setting that there is: frozen dataclasses, a docstring under each field, its permitted values beside it."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    threads: int = setting(0, minimum=0, maximum=1024)
    """CPU threads of a run; 0: as many as the process may use."""
    engine: str = setting("auto", choices=("auto", "plain", "cpu"))
    """plain: transformers' own forward, for every model. cpu: the fast way on a processor, as far as a model allows.
    auto: cpu on a processor, plain on a GPU. `[engine]` switches parts of the fast way off."""


@dataclass(frozen=True)
class EngineSettings:
    """The parts of the fast way, each with a switch; none of them changes a result beyond rounding."""

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
    """C kernels where layers are fused, compiled once by the machine's GCC; false: torch's operators."""
    shared_prefix: bool = True
    """Tokens with which all documents of a micro-batch begin, once, where documents are packed and enough fall away to
    pay for it (2 % of all; in bf16 with AMX 30 %); false: in each."""
    cached_features: bool = True
    """Where only an untied output head is trained, compute what lies below it once a document; false: every epoch."""


@dataclass(frozen=True)
class Computation(EngineSettings, MachineSettings):
    """`[machine]` and `[engine]` of one run in one, with every `auto` decided."""


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
    """Device, precision, threads, engine."""
    engine: EngineSettings = EngineSettings()
    """The parts of the fast way."""
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
            "engine": EngineSettings, "durability": DurabilitySettings, "gate": GateSettings}  # fmt: skip


def plain(value: Any) -> Any:
    """Settings as JSON holds them: dataclasses and tables as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
