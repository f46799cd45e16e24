"""The model card of a stored run: what was trained on what, how it scored, and how it is loaded."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

import bakeoff
from bakeoff.config.schema import ScoringSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.sources import HUB, is_aclsum, remote
from bakeoff.metrics.rouge import METRICS
from bakeoff.report import figures
from bakeoff.report.comparison import Row, points
from bakeoff.report.escape import clip, markdown
from bakeoff.report.rows import row_of
from bakeoff.report.table import text_table
from bakeoff.scoring.api import Beside
from bakeoff.scoring.compute import beside
from bakeoff.scoring.registry import named
from bakeoff.session.store import amend, read_predictions
from bakeoff.sharing.stored import Stored

BASES = {"smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Of known names: the hub id, and the license of the weights."""
CONFIG = "adapter_config.json"


def write(run: Stored, folder: Path | None = None) -> Path:
    """Writes the card beside the adapter of `run`, or with a copy of the adapter into the new `folder`; returns where.

    The adapter's configuration then names the base model by its hub id, if that is known. Raises UsageError for a run
    without a PEFT adapter, OSError where nothing can be written.
    """
    if not run.peft:
        raise UsageError(
            f"card: {run.name} trained weights of the base model, which PEFT does not load; type bakeoff merge "
            f"{run.result.fingerprint[:12]} FOLDER, which writes a model with its card"
        )
    config = json.loads((run.adapter / CONFIG).read_bytes())
    if hub := hub_id(run):
        config["base_model_name_or_path"] = hub
    written = {
        "README.md": render(run).encode(),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
    }
    if folder is None:
        amend(run.folder, {f"adapter/{name}": content for name, content in written.items()})
        return run.adapter / "README.md"
    if folder.exists():
        raise UsageError(f"card: {folder} exists; name a folder that does not")
    shutil.copytree(run.adapter, folder)
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return folder / "README.md"


def render(run: Stored, merged: bool = False) -> str:
    """The card: YAML between two lines of dashes, then Markdown; `merged` for a model, else for an adapter."""
    spec, measured = run.result.spec, others(run)
    found = row_of(run.name, [run.result], beside=measured)
    parts = [
        f"---\n{front(run, found, merged).to_yaml()}\n---",
        f"# {markdown(title(run))}",
        f"{markdown(run.name)} was trained on {documents(spec)} of the task {markdown(task_of(run))} and evaluated on "
        f"{figures.number(len(run.result.document_ids), 'test document')}. The base model is {markdown(base(run))}.",
        *weights(run),
        "## Scores",
        text_table(["metric", "mean", "95 % interval"], scores(found, measured)),
        "ROUGE is F1 x 100. The interval covers another draw of documents, not another seed. Signatures of the scores:",
        "\n".join(f"- {markdown(line)}" for line in signatures(run, measured)),
        *(f"Note: {markdown(note)}." for note in (*run.result.notes, *measured.failures)),
        "## Cost",
        text_table(["figure", "value"], cost(found)),
        "## Use",
        usage(run, merged),
        "## Settings",
        text_table(["setting", "value"], settings(spec)),
        f"This card was made by Bakeoff {bakeoff.__version__}. The run is {run.result.fingerprint}, it finished at "
        f"{markdown(run.result.finished)}, and it was computed with {markdown(versions(run.result.environment))}.",
    ]
    return "\n\n".join(parts) + "\n"


def front(run: Stored, found: Row, merged: bool) -> ModelCardData:
    """What the hub reads of a card; what is not known is absent."""
    task = task_of(run)
    short = HUB.get(task, (task,))[0]
    results = [
        EvalResult(
            task_type="summarization",
            dataset_type=short if remote(task) else re.sub(r"[^\w.-]", "-", task.partition("/")[0]),
            dataset_name=task,
            metric_type="rouge",
            metric_name=figures.ROUGE[metric],
            metric_value=float(points(found.rouge[metric].mean)),
        )
        for metric in METRICS
    ]
    known: dict[str, Any] = {"base_model": hub_id(run), "license": BASES.get(model(run), ("", ""))[1]}
    if remote(task):
        known["datasets"] = [short]
    return ModelCardData(
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["bakeoff", "summarization", re.sub(r"[^\w.-]", "-", str(run.result.spec["base"]))],
        metrics=["rouge"],
        model_name=title(run),
        eval_results=results,
        **{key: value for key, value in known.items() if value},
    )


def model(run: Stored) -> str:
    """The name of the base model in the settings."""
    return str(run.result.spec["model"]["name"])


def hub_id(run: Stored) -> str:
    """The base model's id on the hub; empty where it has none that is known."""
    name = model(run)
    if name in BASES:
        return BASES[name][0]
    outside = name.startswith((".", "/", "~")) or name.endswith(".gguf") or Path(name).exists()
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not outside else ""


def title(run: Stored) -> str:
    """The model's name."""
    return f"{run.name} on {base(run).rpartition('/')[2]}, {task_of(run)}"


def base(run: Stored) -> str:
    """The base model's name: on the hub, if that is known."""
    return hub_id(run) or Path(model(run)).name


def task_of(run: Stored) -> str:
    """The task's name; of a file without its folder."""
    name = str(run.result.spec["task"]["name"])
    return name if remote(name) or is_aclsum(name) else Path(name).name


def weights(run: Stored) -> list[str]:
    """What must be said of the base model's weights."""
    note = str(run.result.environment.get("model_note", ""))
    if not note:
        return []
    return [f"Its weights were: {markdown(note)}. With other weights of that model the scores were not measured."]


def documents(spec: Mapping[str, Any]) -> str:
    """How many were trained on."""
    amount = spec["task"]["train"]
    return figures.number(amount, "document") if amount else "all training documents"


def others(run: Stored) -> Beside:
    """What the metrics beside ROUGE that a report shows by default say of the run's summaries."""
    settings = ScoringSettings(**run.result.spec["scoring"])
    metrics = [named(word, settings, "scoring.metrics") for word in settings.metrics]
    return beside(metrics, {run.name: [read_predictions(run.folder / "predictions.jsonl")]}, run.result.document_ids)


def scores(found: Row, measured: Beside) -> list[list[str]]:
    """A row a metric; one of which no summary has a value is left out."""
    rouge = [
        [figures.SHOWN.get(metric, markdown(metric)), points(one.mean), figures.bounds(one) or figures.MISSING]
        for metric, one in found.rouge.items()
    ]
    rest = [
        [markdown(figures.titled(facts)), facts.show(one.mean), facts.bounds(one.low, one.high) or figures.MISSING]
        for name, facts in measured.facts.items() if (one := found.metrics.get(name))
    ]  # fmt: skip
    return [*rouge, *rest]


def signatures(run: Stored, measured: Beside) -> list[str]:
    """What computed the scores: of ROUGE, then of each other metric, once where several share it."""
    return list(dict.fromkeys([run.result.signature, *(facts.signature for facts in measured.facts.values())]))


def cost(found: Row) -> list[list[str]]:
    """What was measured of time and memory."""
    counts = found.parameters
    shown = {
        "parameters, trainable": figures.count(counts.trainable) if counts else "",
        "parameters, total": figures.count(counts.total) if counts else "",
        "training, s": figures.cell(found.seconds["train"], figures.seconds),
        "whole run, s": figures.cell(found.seconds["total"], figures.seconds),
        **{figures.MEMORY[name]: figures.cell(value, figures.size)
           for name, value in found.memory_bytes.items() if name.startswith("max_")},
    }  # fmt: skip
    return [[name, value] for name, value in shown.items() if value not in ("", figures.MISSING)]


def usage(run: Stored, merged: bool) -> str:
    """How it is loaded, as Python; names that are not known are written in capitals."""
    name = json.dumps(hub_id(run) or "BASE_MODEL")
    load = (
        'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")'
        if merged
        else f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({name}), "THIS_FOLDER")'
    )
    lines = [
        "from transformers import AutoModelForCausalLM",
        *([] if merged else ["from peft import PeftModel"]),
        "",
        load,
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def settings(spec: Mapping[str, Any]) -> list[list[str]]:
    """The recipe and the method's own settings, and how documents are asked."""
    task = {
        key: spec["task"][key] for key in ("max_input_tokens", "max_target_tokens", "template", "prompt", "split_seed")
    }
    found = {"seed": spec["seed"], **spec["training"], **spec["hyperparameters"], **task}
    return [
        [markdown(key), markdown(clip(str(value), 400)) or "(empty)"] for key, value in found.items() if value != ""
    ]


def versions(environment: Mapping[str, Any]) -> str:
    """Of the libraries that computed."""
    names = ("torch", "transformers", "peft")
    return figures.listing([f"{name} {environment[name]}" for name in names if name in environment])
