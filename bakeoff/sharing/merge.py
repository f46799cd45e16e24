"""A stored run as a model of its own: what it trained in the base model's weights, held against the attached model."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff.config import project
from bakeoff.config.schema import Computation, GenerationSettings, ModelSettings, ScoringSettings, TaskSettings
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.validation import build
from bakeoff.data import tasks
from bakeoff.data.encoding import Encoder, template_of
from bakeoff.methods.registry import Entry, load_file
from bakeoff.metrics.rouge import Scorer
from bakeoff.runs import adapters, side_effects
from bakeoff.runs.base import Base, seed_everything
from bakeoff.runs.generation import summarise
from bakeoff.sharing.stored import Stored

CHECKED = 4
"""Test documents that both models summarise, the first of the split."""
ROUNDING = 1e-3
"""What the logits of both may differ by, as a share of the largest: fp32 leaves a hundredth of it."""


@dataclass(frozen=True)
class Said:
    """What a model says of the checked documents."""

    texts: list[str]
    logits: list[torch.Tensor]
    """Of each, tokens x vocabulary, over its prompt and the text that the attached model wrote."""


@dataclass(frozen=True)
class Merged:
    """What was written and found."""

    equal: int
    """Texts that are the attached model's."""
    checked: int
    difference: float
    """The largest difference of the logits, as a share of the largest logit."""


def merge(run: Stored, out: Path, cache: Path) -> Merged:
    """Writes the merged model of `run` into the new folder `out`: weights (safetensors, fp32), tokenizer, configuration
    and greedy generation. `cache` holds converted base models.

    The folder is loaded by AutoModelForCausalLM before it gets its name, and its texts and logits are held against
    those of the base model with the method attached. Raises UsageError where the method has no merged form, where
    something is not what the run was made with, and where the two models differ by more than rounding.
    """
    if os.path.lexists(out):
        raise UsageError(f"merge: {out} exists; name a folder that does not")
    maker = Maker(run, cache)
    whole = maker.whole()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        maker.save(whole, aside)
        del whole
        said = maker.say(maker.attached())
        found = compare(said, maker.say(maker.loaded(aside), said.texts))
        if found.difference > ROUNDING:
            raise UsageError(
                f"merge {run.name}: nothing was written: the merged model's logits differ from the attached one's by "
                f"{found.difference:.1e} of the largest, more than rounding; {instead(run)}"
            )
        aside.chmod(0o755)  # mkdtemp's folder is its owner's alone
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


class Maker:
    """Makes the models of a stored run anew, in fp32 and by transformers' own code."""

    def __init__(self, run: Stored, cache: Path) -> None:
        spec = run.result.spec
        self.run, self.spec = run, spec
        entry = method_of(run)
        self.method = build(entry.kind, spec["hyperparameters"], str(entry.file))
        self.task = build(TaskSettings, spec["task"], "run")
        where = Computation(
            device="cpu", precision="fp32", threads=spec["machine"]["threads"], engine="plain", attention="eager",
            packing=False, fused=False, compiled=False, shared_prefix=False, cached_features=False,
        )  # fmt: skip
        self.base = Base(build(ModelSettings, spec["model"], "run"), cache, where)
        if self.base.source.sha256 != spec["hashes"]["model"]:
            raise UsageError(
                f"merge {run.name}: the base model {spec['model']['name']} is not that of the run any more"
            )
        seed_everything(spec["seed"], where)
        self.documents = tasks.load(self.task, Scorer(build(ScoringSettings, spec["scoring"], "run")))

    def attached(self) -> Any:
        """The base model with the method attached, and what was trained in it."""
        model = self.method.attach(*self.base.load())
        adapters.load(model, self.run.adapter)
        return model.requires_grad_(False).eval()

    def whole(self) -> Any:
        """The same as a model of the base's architecture. Raises UsageError where the method has no such form."""
        model = self.attached()
        found = side_effects.merged(model) if hasattr(model, "peft_config") else model
        if found is None:
            raise UsageError(f"merge {self.run.name}: PEFT can't merge this method into weights; {instead(self.run)}")
        return found

    def save(self, model: Any, folder: Path) -> None:
        """Writes weights, configuration, tokenizer and greedy generation."""
        from transformers import GenerationConfig

        tokenizer = self.base.tokenizer
        assert tokenizer is not None
        ends = sorted({tokenizer.eos_token_id, *self.base.ends})
        model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=ends[0] if len(ends) == 1 else ends, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, max_new_tokens=self.task.max_target_tokens,
        )  # fmt: skip
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def loaded(self, folder: Path) -> Any:
        """The model of `folder` as a user loads it. Raises UsageError where its files are not the architecture's."""
        from transformers import AutoModelForCausalLM

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
        except Exception as error:  # each architecture complains in its own way
            raise UsageError(
                f"merge {self.run.name}: nothing was written: transformers can't load the merged model "
                f"({type(error).__name__}: {first_line(error)}); {instead(self.run)}"
            ) from None
        model, found = loaded
        wrong = sorted(
            str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[kind]
        )
        if wrong:
            raise UsageError(
                f"merge {self.run.name}: nothing was written: the method adds to the architecture, as {wrong[0]}; "
                f"{instead(self.run)}"
            )
        return model.requires_grad_(False).eval()

    def say(self, model: Any, texts: Sequence[str] | None = None) -> Said:
        """What `model` writes of the checked documents, and its logits over `texts`, or over its own."""
        engine, tokenizer = self.base.engine, self.base.tokenizer
        encoder = Encoder(tokenizer, self.documents, self.task, self.base.ends, template_of(self.method, self.task))
        prompts = [encoder.asked(example)[0] for example in self.documents.examples.test[:CHECKED]]
        with torch.no_grad(), self.base.prepared(model) as ready:
            found, _ = summarise(
                engine, ready, tokenizer, prompts, self.task.max_target_tokens,
                build(GenerationSettings, self.spec["generation"], "run"), ends=self.base.ends,
            )  # fmt: skip
            own = [found[number] for number in range(len(prompts))]
            logits = [
                engine.logits(ready, encoder.every_token([*prompt, *ids_of(tokenizer, text)]))
                for prompt, text in zip(prompts, own if texts is None else texts, strict=True)
            ]
        return Said(own, logits)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, nothing around them."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def compare(attached: Said, merged: Said) -> Merged:
    """How much the two differ."""
    differences = []
    for one, other in zip(attached.logits, merged.logits, strict=True):
        width = min(one.shape[-1], other.shape[-1])
        scale = max(one.abs().max().item(), 1e-9)
        differences.append((one[:, :width] - other[:, :width]).abs().max().item() / scale)
    equal = sum(one == other for one, other in zip(attached.texts, merged.texts, strict=True))
    worst = max(differences, default=0.0)
    return Merged(equal, len(attached.texts), worst if worst == worst else float("inf"))


def method_of(run: Stored) -> Entry:
    """The method's file as it was: where the run found it, or of that name here. Raises UsageError."""
    spec = run.result.spec
    place = Path(spec["method_file"])
    for file in (place, *project.places("methods", place.name)):
        if file.is_file():
            entry = next((one for one in load_file(file) if one.name == spec["base"]), None)
            if entry and entry.sha256 == spec["hashes"]["method"]:
                return entry
    raise UsageError(f"merge {run.name}: {place} is not there as the run used it; restore it, or make the run again")


def instead(run: Stored) -> str:
    """What to do with a run that can't be merged."""
    if run.peft:
        return f"load its adapter: peft.PeftModel.from_pretrained(base_model, {str(run.adapter)!r})"
    return f"its trained tensors are in {run.adapter}"
