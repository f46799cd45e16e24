"""Every setting: frozen dataclasses with the permitted values beside each field and a docstring under it.

`make readme` writes docs/settings.md from these docstrings, so a user reads them.
"""

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
    """Revision on the hub; if empty, the newest."""
    special_tokens: tuple[str, ...] = ()
    """Tokens added to the vocabulary; the embeddings grow by as many rows."""
    pad_token: str = ""
    """The padding token. If empty, it is the tokenizer's own, or else its end token. Padding is recognised by length,
    never by its id."""
    architecture: Mapping[str, Any] = setting({})
    """A transformers configuration (`model_type` and its keys). Parameters are counted from it without weights, and the
    model `random` is built from it."""
    quantisation: str = setting("", choices=("", "nf4", "int8", "torchao-int8"))
    """Whether the base model's linear layers are held in four bits (`nf4`) or eight (`int8`), by bitsandbytes on a GPU,
    or in eight by torchao on a processor or a GPU (`torchao-int8`). The output head stays as it is. What a method adds
    is trained in fp32 beside them, and counts are those of the model in full. Empty means that nothing is quantised."""
    trust_remote_code: bool = False
    """Whether a hub model may run Python code of its own. Only the command line can set it (`--trust-remote-code`), no
    file."""


@dataclass(frozen=True)
class TaskSettings:
    """Documents with reference summaries, and how much of them a run sees."""

    name: str = "aclsum/outcome"
    """`aclsum/challenge`, `aclsum/approach`, `aclsum/outcome`, `aclsum/all`, `cnn_dailymail`, `xsum`, `samsum`, a hub
    id, or a file: .jsonl, .ndjson, .json, .csv, .tsv or .parquet, each also as .gz. A name that exists on disk is never
    taken for a hub id."""
    train: int = setting(100, minimum=0)
    """Number of training documents; 0 means all. A document counts once, however many references or aspects it has."""
    validation: int = setting(50, minimum=0)
    """Number of validation documents; 0 means all."""
    test: int = setting(100, minimum=0)
    """Number of test documents; 0 means all."""
    split_seed: int = setting(0, minimum=0)
    """Seed that draws the sample and, if a file has no split column, the splits. A run's own seed never does."""
    max_input_tokens: int = setting(256, minimum=8)
    """Most tokens of prompt, document and separator together. Only the document is truncated."""
    max_target_tokens: int = setting(64, minimum=2)
    """Most tokens of a summary, its end token included, in training and in generation."""
    prompt: str = ""
    """Text around `{document}` (and `{aspect}`), which ends with the separator; if empty, the task's own."""
    instruction: str = ""
    """The user's turn, if the model is asked through its chat template; if empty, the task's own."""
    template: str = setting("plain", choices=("plain", "chat"))
    """How methods are trained and asked. `plain` uses `prompt`. `chat` uses the model's chat template, with the summary
    as the assistant's turn. The control `zero-shot` has a setting of its own, `methods.zero-shot.prompt`."""
    thinking: bool = False
    """Whether thinking is on, if the chat template has a switch for it."""
    document_column: str = ""
    """Column that holds the document; if empty, the task's own (`document` for a file)."""
    summary_column: str = ""
    """Column that holds the summary, a text or a list of reference summaries; if empty, the task's own (`summary` for a
    file). Several rows with the same document also give it several references."""
    messages_column: str = ""
    """Column that holds a chat, a list of turns with `role` and `content`, instead of the two columns above. The last
    turn of the assistant is the summary. The turns before it are the document, separated by empty lines; if the
    assistant speaks among them, each begins with its role (`user: ...`)."""
    id_column: str = "id"
    """Column that holds a document's id; it may be missing. If the setting is empty, row numbers become ids."""
    split_column: str = "split"
    """Column that holds train, validation or test (files only). If empty, `split_seed` draws the splits."""
    subset: str = ""
    """Configuration of a hub data set; if empty, its default."""


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe of one run. A method or its table `[methods.NAME]` may change any of these settings for itself."""

    epochs: int = setting(3, minimum=0, maximum=10_000)
    """Passes over the training documents; with 0 the method is evaluated as attached."""
    patience: int = setting(0, minimum=0, maximum=10_000)
    """Epochs after which training ends if the validation loss has not fallen; the schedule stays that of all epochs. 0
    means that all epochs are trained."""
    learning_rate: float = setting(1e-3, minimum=0.0, maximum=1e3)
    """Peak learning rate of AdamW; with 0 no parameter changes."""
    batch_size: int = setting(8, minimum=1)
    """Effective batch: documents per optimizer step."""
    micro_batch_size: int = setting(8, minimum=1)
    """Documents per forward pass. It changes memory and speed, not the optimizer step."""
    weight_decay: float = setting(0.0, minimum=0.0)
    """Decoupled weight decay of AdamW; 0 switches it off."""
    beta1: float = setting(0.9, minimum=0.0, maximum=0.9999999)
    """Decay rate of AdamW's first moment."""
    beta2: float = setting(0.999, minimum=0.0, maximum=0.9999999)
    """Decay rate of AdamW's second moment."""
    schedule: str = setting("linear", choices=("linear", "constant"))
    """Learning rate after the warm-up: it falls linearly to 0 at the last step, or stays constant."""
    warmup: float = setting(0.1, minimum=0.0, maximum=1.0)
    """Share of the steps during which the learning rate rises linearly from 0; 0 means no warm-up."""
    gradient_clip: float = setting(1.0, minimum=0.0)
    """Largest global norm of the gradient; 0 switches clipping off."""
    optimizer: str = setting("adamw", choices=("adamw", "adamw8bit"))
    """`adamw8bit` holds AdamW's two moments in eight bits, by bitsandbytes on a GPU."""


@dataclass(frozen=True)
class GenerationSettings:
    """How summaries are generated: greedily, until the end token or `task.max_target_tokens`."""

    batch_size: int = setting(16, minimum=1)
    """Documents decoded together. In bf16 the text depends on it, so it is part of a run's fingerprint."""


@dataclass(frozen=True)
class MeasureSettings:
    """What a run measures beside its summaries; each takes some seconds a method, so that nothing is by default."""

    forgetting: int = setting(0, minimum=0)
    """Texts on which the cross-entropy before and after training is measured, and prompts of the test split on which
    the KL divergence from the base model is. 0 measures neither. Two models are in memory while it is measured."""
    text: str = ""
    """The texts: a file with a column `text`, or a .txt with blank lines between them. Empty means introductions of the
    embedded papers."""
    text_tokens: int = setting(256, minimum=2)
    """How much of each text is read."""
    inference: int = setting(0, minimum=0)
    """Test documents that are summarised once more, with the adapter attached and merged, for seconds a summary and the
    bytes of the weights; beside quantised weights attached alone. 0 measures neither."""


@dataclass(frozen=True)
class ScoringSettings:
    """How summaries are scored. The signature of the scores names these settings."""

    tokenizer: str = setting("rouge-score", choices=("rouge-score", "unicode"))
    """`rouge-score` keeps a to z and 0 to 9 and uses Porter's stemmer. `unicode` keeps letters and digits of every
    script, case-folded (NFKC), without a stemmer; if a script does not space its words (Han, kana, Thai, Khmer),
    each letter is a token."""
    references: str = setting("best", choices=("best", "mean"))
    """If a document has several references: `best` takes the best score of each metric, as rouge-score's `score_multi`
    does, and `mean` takes their mean."""
    metrics: tuple[str, ...] = ("chrf", "length_ratio", "new_bigrams", "coverage", "density", "repeated_trigrams",
                                "empty", "cut")  # fmt: skip
    """Metrics beside ROUGE: names, or .py files with a metric of your own, each with settings as
    `bertscore:model=FOLDER`. They are computed from stored summaries, so a change here trains nothing again. The option
    `--metric` adds to the list."""
    verdicts: tuple[str, ...] = ("rouge1", "rouge2", "rougeL")
    """Metrics that carry verdicts: letters, bold and sentences in the report, and the gate. The other metrics are shown
    with intervals and tests. A metric needs values from 0 to 1 and a better direction."""


@dataclass(frozen=True)
class MachineSettings:
    """What a run may use. `auto` is resolved once, before the first run, and recorded."""

    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    """`auto` takes a CUDA GPU if there is one."""
    precision: str = setting("auto", choices=("auto", "bf16", "fp32"))
    """Precision of frozen weights and of matrix products; trained parameters are always fp32. `auto` takes bf16 if the
    processor multiplies it in hardware."""
    threads: int = setting(0, minimum=0, maximum=1024)
    """CPU threads of a run; 0 means as many as the process may use: as its container and OMP_NUM_THREADS
    allow, and at most 8 on a GPU."""
    checkpoint_activations: bool = False
    """Whether a decoder layer's activations are computed again in the backward pass instead of kept: far less memory,
    for a third more computation."""
    ranks: int = setting(1, minimum=1, maximum=1024)
    """Processes that train one run together, each on its share of every batch: on as many GPUs, or with as many shares
    of `threads`. The optimizer step is the same within rounding."""
    sharded: bool = False
    """Whether each rank holds a share of the decoder layers' frozen weights (FSDP2): for a base model that doesn't fit
    one GPU. The engine is `plain`, and training reads one document at a time."""
    engine: str = setting("auto", choices=("auto", "plain", "cpu", "cuda"))
    """`plain` runs transformers' own forward pass and supports every model. `cpu` is faster on a processor and `cuda`
    on a GPU, as far as a model allows. `auto` takes the one that fits the device. `[engine]` switches off parts of
    them."""


@dataclass(frozen=True)
class EngineSettings:
    """Optimisations of the engine, each with a switch. None of them changes a result beyond rounding."""

    attention: str = setting("auto", choices=("auto", "eager", "sdpa", "flash_attention_2"))
    """The attention implementation of transformers that computes documents, unless compiled kernels do. For packed
    documents it applies only to passes without a gradient. `auto` takes sdpa on a GPU. On a CPU it takes eager, or, for
    packed documents in bf16, the faster of sdpa and eager, timed once a machine."""
    packing: bool = True
    """Whether the documents of a micro-batch stand in one row without padding. A test on the model with its method
    attached must show that documents see nothing of each other. If false, documents are padded."""
    micro_batch_tokens: int = setting(0, minimum=0)
    """Most tokens per forward pass of training if documents are packed; it replaces `training.micro_batch_size`. A GPU
    takes fewer if its memory has no room for them. 0 means 16,384 on a GPU; on a CPU it means that
    `training.micro_batch_size` decides. It changes memory and speed, not the optimizer step."""
    captured: bool = True
    """Whether the steps of writing are captured once as a CUDA graph and replayed for each token, if documents are
    packed on a GPU. If false, Python starts every kernel of every step."""
    merged: bool = True
    """Whether a LoRA is added to its matrices while a model writes, if documents are packed on a GPU whose memory has
    room for a second copy of these. If false, it is computed beside them for every token."""
    labels_only: bool = True
    """Whether logits are computed only for positions that predict a label token. If false, they are computed for every
    position, as transformers does."""
    fused: bool = True
    """Whether decoder layers are computed in fewer passes over memory, if documents are packed: on a CPU Llama-like
    layers, on a GPU what torch.compile fuses, in runs of at least 1,000 optimizer steps, which repay the minute that it
    takes. If false, transformers' own layers are used."""
    compiled: bool = True
    """Whether fused layers use C kernels, which the machine's GCC compiles once. If false, torch operators are used."""
    shared_prefix: bool = True
    """Whether a prefix that all documents of a micro-batch share is computed once, if documents are packed on a CPU and
    enough tokens are saved to pay for it (2 % of all; in bf16 with AMX 30 %). If false, it is computed for each
    document."""
    cached_features: bool = True
    """Whether the frozen layers below an output head are computed once per document, if only an untied head is trained.
    If false, they are computed in every epoch."""


@dataclass(frozen=True)
class Computation(EngineSettings, MachineSettings):
    """`[machine]` and `[engine]` of one run in one, with every `auto` decided."""


@dataclass(frozen=True)
class DurabilitySettings:
    """How often an unfinished run is saved. It changes no outcome, so it is not part of a run's fingerprint."""

    checkpoint_seconds: float = setting(120.0, minimum=0.0)
    """Seconds of training between checkpoints, besides the one after each epoch; 0 switches these off."""
    checkpoint_steps: int = setting(0, minimum=0)
    """Optimizer steps between checkpoints, besides the one after each epoch; 0 switches these off."""


@dataclass(frozen=True)
class GateSettings:
    """When the gate calls a method worse than its baseline. It changes no run."""

    tolerance: float = setting(1.0, minimum=0.0, maximum=100.0)
    """Points of ROUGE (F1 x 100) by which a mean may differ from the baseline's without a verdict."""
    alpha: float = setting(0.05, minimum=1e-9, maximum=0.5)
    """Chance of any false alarm over all verdicts of a session together (Holm)."""


@dataclass(frozen=True)
class ReportSettings:
    """What a finished bake-off leaves beside its report. It changes no run."""

    history: bool = True
    """Whether a line with the figures of all methods is appended to `reports/history/PRESET.jsonl`, which
    `bakeoff history` shows. With `--report-dir`, the folder `history` stands beside the one that the option names."""
    page: bool = True
    """Whether `index.html` is written, a page to browse, with `details.json`, from which `bakeoff page` shows texts."""


@dataclass(frozen=True)
class Settings:
    """Everything a bake-off was asked to do."""

    preset: str = "custom"
    """The preset's name, which is also the name of the report's folder and the key of floors and baselines."""
    description: str = ""
    """One sentence for the report."""
    seeds: tuple[int, ...] = (42,)
    """One run of every method for each."""
    model: ModelSettings = ModelSettings()
    """The base model."""
    task: TaskSettings = TaskSettings()
    """The documents."""
    training: TrainingSettings = TrainingSettings()
    """The recipe, before a method changes it for itself."""
    generation: GenerationSettings = GenerationSettings()
    """How summaries are written."""
    scoring: ScoringSettings = ScoringSettings()
    """How summaries are scored."""
    measure: MeasureSettings = MeasureSettings()
    """What is measured beside them."""
    machine: MachineSettings = MachineSettings()
    """Device, precision, threads, engine."""
    engine: EngineSettings = EngineSettings()
    """Optimisations of the engine."""
    durability: DurabilitySettings = DurabilitySettings()
    """How often an unfinished run is kept."""
    gate: GateSettings = GateSettings()
    """Tolerance and alpha of `--gate`."""
    report: ReportSettings = ReportSettings()
    """What is kept beside the report."""
    methods: Mapping[str, Mapping[str, Any]] = setting({})
    """`[methods.NAME]`: hyperparameters of a method and its changes to `[training]`."""
    study: Mapping[str, Any] = setting({})
    """`[study]`: what an experiment of `bakeoff study` varies. It changes no run, and nothing else reads it."""
    changes: Mapping[str, Any] = setting({})
    """What `--set` changed, by dotted key. It wins over presets and methods."""
    source: str = ""
    """The preset's file, for messages."""


READ_LATER = ("metrics", "verdicts")
"""Settings of [scoring] that change no run: they say what the report makes of stored summaries."""
SECTIONS = {"model": ModelSettings, "task": TaskSettings, "training": TrainingSettings,
            "generation": GenerationSettings, "scoring": ScoringSettings, "measure": MeasureSettings,
            "machine": MachineSettings, "engine": EngineSettings, "durability": DurabilitySettings,
            "gate": GateSettings, "report": ReportSettings}  # fmt: skip


def plain(value: Any) -> Any:
    """Settings as JSON holds them: dataclasses and tables as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
