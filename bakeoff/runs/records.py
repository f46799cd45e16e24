"""RunSpec and RunResult: what a run is asked, and what it leaves; plain data that JSON holds."""

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

SCHEMA = 1


@dataclass(frozen=True)
class RunSpec:
    """One method on one task with one base model and one seed, resolved: all that can change the outcome."""

    method: str
    """Name of the row: of the method or control, or what a preset or `--method lora:rank=8` calls it."""
    base: str
    """Name of the method."""
    control: bool
    """Whether it trains nothing."""
    method_file: str
    """The file it is loaded from."""
    hyperparameters: dict[str, Any]
    """The method's own settings."""
    seed: int
    """Seeds initial weights and the order of documents."""
    model: dict[str, Any]
    """ModelSettings."""
    task: dict[str, Any]
    """TaskSettings."""
    training: dict[str, Any]
    """TrainingSettings with the method's changes."""
    generation: dict[str, Any]
    """GenerationSettings."""
    scoring: dict[str, Any]
    """ScoringSettings."""
    measure: dict[str, Any]
    """MeasureSettings."""
    machine: dict[str, Any]
    """MachineSettings with every `auto` resolved."""
    hashes: dict[str, str]
    """sha256 of the model, the data, text that is not the task's, the method file and the folders on the run's way."""
    versions: dict[str, str]
    """Of the libraries that compute, of Python, and the processor's features."""

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change with anything that can change the outcome; places on disk don't count."""
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method_file"}
        text = json.dumps({"schema": SCHEMA, **asked}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Reloaded(TypedDict):
    """One summary by the trained model, and by the base model with what was saved."""

    id: str
    aspect: str
    summary: str
    again: str


class Evidence(TypedDict, total=False):
    """What `bench/` asserts of a run; empty for a control without a model."""

    frozen_before: str
    """Digest of every weight that is not trained, before training."""
    frozen_after: str
    """The same after it."""
    frozen_changed: list[str]
    """Names of those that differ."""
    layout: dict[str, str]
    """How documents may stand together, by question: empty, or a reason why not."""
    trained: str
    """Digest of the trained weights; this and the rest is absent for a control."""
    reloaded_trained: str
    """The same of the base model with what was saved."""
    reloaded: list[Reloaded]
    """The documents whose summaries were written again."""


@dataclass(frozen=True)
class RunResult:
    """A finished run. A figure that was not measured is None."""

    fingerprint: str
    spec: dict[str, Any]
    """The RunSpec as a dict."""
    parameters: dict[str, Any] | None
    """`expected`, `requires_grad`: ParameterCounts as dicts; `optimizer`, `saved`: numbers of trained parameters.
    None for a control without a model."""
    steps: list[dict[str, float]] = field(default_factory=list)
    """One of each optimizer step: step, epoch, loss (nats per label token), learning_rate, gradient_norm."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """One of each validation: epoch (0: before training), validation_loss, training_loss (absent at 0), best (0, 1)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """setup, training, validation, evaluation (writing and scoring), checks; each second booked once."""
    tokens: dict[str, int] = field(default_factory=dict)
    """training: tokens passed forward in training; labels: of them labelled; generated: tokens written."""
    memory_bytes: dict[str, int | None] = field(default_factory=dict)
    """allocated, max_allocated, reserved, max_reserved (CUDA), resident, max_resident (CPU). On a CPU above the
    level before the model was loaded; a GPU's peaks start when the model stands there in its precision."""
    adapter_bytes: int | None = None
    """Size of what the method saved."""
    evidence: Evidence = field(default_factory=Evidence)
    """What the promises about frozen weights and about reloading are asserted on."""
    truncated: dict[str, int] = field(default_factory=dict)
    """documents, summaries: how many were cut to the task's limits."""
    data: dict[str, int] = field(default_factory=dict)
    """What became of the rows of the task's source: the counts of `bakeoff.data.tasks.Task`."""
    forgetting: dict[str, float] = field(default_factory=dict)
    """before, after: nats per token of text that is not the task's, by the base model and the trained one; divergence:
    nats per token of the test prompts, KL of the trained from the base model. Empty where it was not asked for."""
    inference: dict[str, dict[str, float]] = field(default_factory=dict)
    """attached, merged: seconds a summary, bytes of the weights. Empty where it was not asked for."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the scores must know, a sentence each."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """F1 in 0..1 by metric, one a test document, whatever references and aspects it has."""
    document_ids: list[str] = field(default_factory=list)
    """Of the test documents, each once, in the order of `scores`."""
    signature: str = ""
    """How the scores were made."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Machine and versions at the time of the run."""
    repeated_steps: int = 0
    """Optimizer steps that were computed again because a process of this run was killed."""
    finished: str = ""
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Death:
    """A run that did not finish."""

    method: str
    seed: int
    phase: str
    """setup, training, validation, evaluation, checks or start."""
    cause: str
    """One line: the exception, `out of memory`, `killed by signal 9`, the step of a loss that is not finite."""
    log: str = ""
    """The file with everything that the process printed."""
    stack: str = ""
    """Where it stood when its time was over; empty for other ends."""
