"""report.md: one page about a comparison. Everything that Bakeoff did not write itself is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import METRICS, Prediction, Scorer
from bakeoff.report import analysis, table
from bakeoff.report import gate as gates
from bakeoff.report.comparison import Comparison, Row, points
from bakeoff.report.escape import clip, markdown, plain
from bakeoff.report.figures import MISSING, listing, number
from bakeoff.report.plots.drawing import Image
from bakeoff.report.sections import differences, published_table

SAMPLES = 3
EXCERPT = 400
"""Characters of a document that are shown."""
SUMMARY = 1000
"""Characters of a summary that are shown."""


NAMES = {
    "memory_gib": "memory, GiB",
    "documents": "documents in a forward pass",
    "engine_reason": "engine, not faster because",
}
"""What is printed of the environment under another name than in results.json."""


def render(
    comparison: Comparison,
    predictions: Mapping[str, Sequence[Prediction]],
    images: Sequence[Image],
    gate: Gate | None = None,
) -> str:
    """The whole page."""
    said = analysis.sections(comparison, markdown)
    parts = [
        f"# Bake-off: {markdown(comparison.settings.preset)}",
        analysis.compared(comparison, markdown),
        *analysis.warnings(comparison, markdown),
        "## Settings, environment, signature",
        table.text_table(["setting", "value"], setting_rows(comparison)),
        "## Comparison",
        *methods(comparison),
        "## Differences",
        *differences.section(comparison, markdown),
        *([gates.markdown_table(gate).rstrip()] if gate else []),
        "## Controls",
        *controls(comparison),
        *(
            ["## Beside published figures", *published_table.section(comparison, markdown)]
            if comparison.published
            else []
        ),
        "## Plots",
        *([figure(image) for image in images] or ["No run left a curve or a score."]),
        "## Truncated documents",
        truncated(comparison.rows),
        "## Shared hyperparameters",
        shared(comparison.methods),
        "## Samples",
        *samples(comparison, predictions),
    ]
    for name, sentences in said.items():
        parts += [f"## {name}", "\n".join(f"- {sentence}" for sentence in sentences)]
    return "\n\n".join(parts) + "\n"


def setting_rows(comparison: Comparison) -> list[list[str]]:
    """What was asked for and where it ran."""
    settings, environment = comparison.settings, comparison.environment()
    task, note = settings.task, environment.pop("model_note", "")
    run = comparison.rows[0].runs[0] if comparison.rows else None
    every = [run for row in comparison.rows for run in row.runs]
    hashes = run.spec["hashes"] if run else {}
    asked = ", ".join(f"{split} {amount or 'all'}" for split, amount in
                      (("training", task.train), ("validation", task.validation), ("test", task.test)))  # fmt: skip
    rows = {
        "preset": settings.preset,
        "description": settings.description,
        "base model": settings.model.name,
        "base model's weights": note,
        "base model's revision": settings.model.revision,
        "base model, sha256": str(hashes.get("model", ""))[:16],
        "task": task.name,
        "documents": asked,
        "documents, sha256": str(hashes.get("data", ""))[:16],
        "limits": f"{task.max_input_tokens} input tokens, {task.max_target_tokens} target tokens",
        "seeds": ", ".join(map(str, settings.seeds)),
        "generation": f"greedy, {number(settings.generation.batch_size, 'document')} at a time",
        "changed by --set": ", ".join(f"{key}={value}" for key, value in settings.changes.items()),
        "signature of the scores": comparison.signature,
        "last run finished": max((run.finished for run in every), default=""),
        **{NAMES.get(name, name): value for name, value in sorted(environment.items())},
    }
    return [[markdown(name), markdown(value)] for name, value in rows.items() if value]


def methods(comparison: Comparison) -> list[str]:
    """The comparison table, how to read it, and who died."""
    parts = []
    if comparison.methods or comparison.dead:
        frame = table.frame(comparison, comparison.methods, comparison.dead, markdown, "**")
        whole = table.to_markdown(frame, "figure")
        if len(comparison.methods) > table.MANY:
            first = table.to_markdown(table.by_method(comparison, markdown, "**"), "method")
            whole = f"{first}\n\n<details><summary>Every figure</summary>\n\n{whole}\n\n</details>"
        parts = [whole, reading(comparison), *differing(comparison.methods)]
    else:
        parts = ["No method was trained."]
    if comparison.deaths:
        dead = [[markdown(d.method), str(d.seed), markdown(d.phase), markdown(clip(d.cause, SUMMARY)),
                 markdown(Path(d.log).name) if d.log else MISSING] for d in comparison.deaths]  # fmt: skip
        parts += ["Dead runs:", table.text_table(["method", "seed", "phase", "cause", "log"], dead)]
        for death in (death for death in comparison.deaths if death.stack):
            stack = "\n".join("    " + plain(line) for line in death.stack.splitlines())  # indented: code
            parts += [f"Where {markdown(death.method)}, seed {death.seed}, stood:", stack]
    return parts


def reading(comparison: Comparison) -> str:
    """How the table is to be read."""
    several = any(len(row.runs) > 1 for row in comparison.methods)
    said = [
        "ROUGE is the mean over the test documents. Brackets hold its 95 % interval (Student's t), over documents and, "
        "if the variance between seeds is known, over seeds.",
        "ROUGE-L takes a text for one sentence; ROUGE-Lsum takes each line for one.",
        "A document counts once, with "
        + ("the best score" if comparison.settings.scoring.references == "best" else "the mean")
        + " over its references and the mean over its aspects.",
        "Seconds and tokens per second are those of a run"
        + (", the mean over seeds; memory and adapter size are the highest of the seeds." if several else "."),
        "Each second is booked once.",
        f"{MISSING} means that a figure was not measured or cannot be computed.",
        "Memory is measured at the end of the evaluation and at its peak, above the level before the model was loaded.",
        "Parameters are counted twice: each tensor once, and tied tensors under every name.",
    ]
    if len(comparison.methods) > 1:
        if any(comparison.alike(metric) for metric in METRICS):
            said.append("Two methods share a letter if they cannot be told apart. Bold ROUGE marks all that cannot be "
                        "told from the highest mean.")  # fmt: skip
        else:
            said.append("ROUGE has no letters and no bold, because the variance between seeds is not known for every "
                        "method.")  # fmt: skip
        said.append("Other bold marks the highest rate and the lowest seconds and bytes of a row, without a test.")
    return " ".join(said)


def controls(comparison: Comparison) -> list[str]:
    """The rows that train nothing."""
    if not comparison.controls:
        return ["No control was run."]
    return [
        "Controls train nothing. They show what a trained method has to beat.",
        table.to_markdown(table.controls(comparison.controls, markdown), "control"),
    ]


def figure(image: Image) -> str:
    """A plot, by a relative link."""
    return f"![{markdown(image.caption)}](plots/{image.path.name})"


def truncated(rows: Sequence[Row]) -> str:
    """How many documents and summaries were cut, of all three splits."""
    counted = [row for row in rows if row.truncated]
    if not counted:
        return "No run counted truncated documents."
    alike = {tuple(sorted(row.truncated.items())) for row in counted}
    if len(alike) == 1:
        [found] = alike
        amounts = listing([number(amount, name.removesuffix("s")) for name, amount in found])
        every_run = "the same in every run that feeds them to the model"
        return f"The task's limits truncated {amounts} over all splits, {every_run}."
    header = ["method", *sorted({name for row in counted for name in row.truncated})]
    cells = [[markdown(row.name), *(str(row.truncated.get(name, MISSING)) for name in header[1:])] for row in counted]
    return "The task's limits truncated, over all splits:\n\n" + table.text_table(header, cells)


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which the methods differ; of a single method, all."""
    keys = [key for key in every(rows) if len(rows) == 1 or not alike(rows, key)]
    if not keys:
        return ["The compared methods differ in no setting."] if rows else []
    header = ["setting", *(markdown(row.name) for row in rows)]
    cells = [[markdown(key), *(value(row, key) for row in rows)] for key in keys]
    intro = "These settings differ between the methods" if len(rows) > 1 else "Its settings"
    return [f"{intro} ({MISSING} means that a method has no such setting):", table.text_table(header, cells)]


def shared(rows: Sequence[Row]) -> str:
    """The settings that are the same for all methods."""
    found = [f"{markdown(key)} {value(rows[0], key)}" for key in every(rows) if len(rows) > 1 and alike(rows, key)]
    return f"Shared by all: {', '.join(found)}." if found else "None."


def every(rows: Sequence[Row]) -> list[str]:
    """The names of all settings, each once."""
    return list(dict.fromkeys(key for row in rows for key in row.hyperparameters))


def alike(rows: Sequence[Row], key: str) -> bool:
    """Whether all methods have the setting at the same value."""
    return len({value(row, key) for row in rows}) == 1


def value(row: Row, key: str) -> str:
    """A setting as Markdown; a dash where the method has none of that name."""
    found: Any = row.hyperparameters.get(key, MISSING)
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, (list, tuple)):
        found = ", ".join(map(str, found))
    return markdown(clip(str(found), SUMMARY)) or "(empty)"


def samples(comparison: Comparison, predictions: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """The first, the middle and the last test document with what was written about them."""
    ids = comparison.document_ids
    written: dict[str, dict[str, list[Prediction]]] = {}
    for name, made in predictions.items():
        for prediction in made:
            written.setdefault(name, {}).setdefault(prediction.id, []).append(prediction)
    # Controls that copy sentences would only repeat the document.
    rows = [row for row in comparison.rows if row.name in written and (not row.control or row.parameters)]
    indices = sorted({0, len(ids) // 2, len(ids) - 1})[:SAMPLES] if ids else []
    parts, scorer = [], Scorer(comparison.settings.scoring)
    for index in indices:
        known = [(row, written[row.name][ids[index]]) for row in rows if ids[index] in written[row.name]]
        if not known:
            continue
        parts += [f"### {markdown(ids[index])}", f"Document: {shown(known[0][1][0].document, EXCERPT)}"]
        for nth, first in enumerate(known[0][1]):
            cells = [["reference", "", shown(text)] for text in first.references]
            for row, made in known:
                own = score(row, index) if len(made) == 1 else scorer.rouge(made[nth].summary, first.references)
                cells.append([markdown(row.name), listed(own), shown(made[nth].summary)])
            parts += [f"{markdown(first.aspect)}:"] * (len(known[0][1]) > 1)
            parts.append(table.text_table(["by", "ROUGE-1 / 2 / L", "summary"], cells))
    if not parts:
        return ["There are no summaries."]
    chosen = listing([f"{index + 1:,}" for index in indices])
    return [
        f"Test documents {chosen} of {len(ids):,}, picked by position. The summaries are those of the first seed.",
        *parts,
    ]


def shown(text: str, limit: int = SUMMARY) -> str:
    """Untrusted text as Markdown, cut to `limit` characters."""
    return markdown(clip(text.strip(), limit)) or "(empty)"


def score(row: Row, index: int) -> dict[str, float]:
    """F1 of one document by metric, first seed."""
    return {metric: rows[0][index] for metric, rows in row.scores.items()}


def listed(scores: Mapping[str, float]) -> str:
    """F1 x 100 by metric."""
    return " / ".join(points(scores[metric]) for metric in METRICS)
