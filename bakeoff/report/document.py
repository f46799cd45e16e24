"""report.md: one page about a comparison, what it concludes first, what few look up folded.

Everything that Bakeoff did not write itself is escaped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report import analysis, table
from bakeoff.report import gate as gates
from bakeoff.report.comparison import MANY, Comparison
from bakeoff.report.escape import clip, markdown, plain
from bakeoff.report.figures import MISSING, number
from bakeoff.report.plots.drawing import Image
from bakeoff.report.sections import differences, published_table, recipes, samples
from bakeoff.stats.intervals import letters

NAMES = {
    "memory_gib": "memory, GiB",
    "documents": "documents in a forward pass",
    "engine_reason": "engine, not faster because",
}
"""What is printed of the environment under another name than in results.json."""
CAUSE = 1000
"""Characters of a cause of death that are shown."""


def render(
    comparison: Comparison,
    predictions: Mapping[str, Sequence[Prediction]],
    images: Sequence[Image],
    gate: Gate | None = None,
) -> str:
    """The whole page."""
    said = analysis.sections(comparison, markdown)
    first, rest = [one for one in images if one.first], [one for one in images if not one.first]
    parts = [
        f"# Bake-off: {markdown(comparison.settings.preset)}",
        f"**{analysis.first(comparison, markdown)}**",
        analysis.compared(comparison, markdown),
        *analysis.warnings(comparison, markdown),
        "## Conclusion",
        bullets(said.pop("Conclusion")),
        *([gates.markdown_table(gate).rstrip()] if gate else []),
        "## Comparison",
        *methods(comparison),
        *map(figure, first),
        "## Samples",
        *samples.section(comparison, predictions),
        "## Details",
        *folds(comparison, said, rest),
    ]
    return "\n\n".join(parts) + "\n"


def folds(comparison: Comparison, said: Mapping[str, Sequence[str]], images: Sequence[Image]) -> list[str]:
    """What few look up, each behind its title."""
    found: dict[str, Sequence[str]] = {
        "Other figures": figures(comparison),
        "Metrics without verdicts": metrics(comparison),
        "Settings of the methods": [*recipes.differing(comparison.methods), recipes.shared(comparison.methods),
                                    recipes.truncated(comparison.rows)],
        "Differences": differences.section(comparison, markdown),
        "Controls": controls(comparison),
        "Beside published figures": published_table.section(comparison, markdown) if comparison.published else [],
        "Plots": [figure(image) for image in images],
        **{name: [bullets(sentences)] for name, sentences in said.items()},
        "Settings, environment, signature": [table.text_table(["setting", "value"], setting_rows(comparison))],
    }  # fmt: skip
    return [fold(title, parts) for title, parts in found.items() if parts]


def fold(title: str, parts: Sequence[str]) -> str:
    """Parts of the page that a click opens. GitHub drops the attribute, which other renderers of Markdown need."""
    return "\n\n".join([f'<details markdown="1">\n<summary>{title}</summary>', *parts, "</details>"])


def bullets(sentences: Sequence[str]) -> str:
    """A sentence a line."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


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
        "signature of ROUGE": comparison.signature,
        **{f"signature of {facts.label}": facts.signature for facts in comparison.beside.values()},
        "last run finished": max((run.finished for run in every), default=""),
        **{NAMES.get(name, name): value for name, value in sorted(environment.items())},
    }
    return [[markdown(name), markdown(value)] for name, value in rows.items() if value]


def methods(comparison: Comparison) -> list[str]:
    """The comparison table, how to read it, and who died."""
    parts = ["No method was trained."]
    if comparison.methods or comparison.dead:
        corner = "method" if len(comparison.methods) > MANY else "figure"
        parts = [table.to_markdown(table.main(comparison, markdown, "**"), corner), reading(comparison)]
    if comparison.deaths:
        dead = [[markdown(d.method), str(d.seed), markdown(d.phase), markdown(clip(d.cause, CAUSE)),
                 markdown(Path(d.log).name) if d.log else MISSING] for d in comparison.deaths]  # fmt: skip
        parts += ["Dead runs:", table.text_table(["method", "seed", "phase", "cause", "log"], dead)]
        for death in (death for death in comparison.deaths if death.stack):
            stack = "\n".join("    " + plain(line) for line in death.stack.splitlines())  # indented: code
            parts += [f"Where {markdown(death.method)}, seed {death.seed}, stood:", stack]
    return parts


def reading(comparison: Comparison) -> str:
    """How the main table is to be read."""
    said = ["Scores are means over the test documents; brackets hold their 95 % intervals."]
    if len(comparison.methods) > 1:
        if any(comparison.alike(metric) for metric in comparison.verdicts):
            said.append("Two methods share a letter if they cannot be told apart. Bold scores mark all that cannot be "
                        "told from the best mean.")  # fmt: skip
            groups = [comparison.alike(metric) or [] for metric in comparison.verdicts]
            if any("-" in text for found in groups for text in letters(found).values()):
                said.append("a-d stands for a, b, c and d.")
        else:
            said.append("Scores have no letters and no bold, because the variance between seeds is not known for every "
                        "method.")  # fmt: skip
        said.append("Other bold marks the lowest seconds and bytes, without a test.")
    said.append(f"{MISSING} means that a figure was not measured or cannot be computed.")
    return " ".join(said)


def figures(comparison: Comparison) -> list[str]:
    """Further seconds, memory and parameters of every method, and how to read them."""
    found = table.others(comparison, markdown, "**")
    if found.empty:
        return []
    several = any(len(row.runs) > 1 for row in comparison.methods)
    said = [
        "Seconds and tokens per second are those of a run"
        + (", the mean over seeds; memory and adapter size are the highest of the seeds." if several else "."),
        "Each second is booked once.",
        "Memory is measured at the end of the evaluation and at its peak, above the level before the model was loaded.",
        "Parameters are counted twice: each tensor once, and tied tensors under every name.",
    ]
    corner = "method" if len(comparison.methods) > MANY else "figure"
    return [table.to_markdown(found, corner), " ".join(said)]


def metrics(comparison: Comparison) -> list[str]:
    """The metrics that carry no verdict, how to read them, and their differences."""
    found = table.metrics(comparison, markdown)
    if found.empty:
        return []
    said = [
        "Intervals are Student's t over documents and, if the variance between seeds is known, over seeds; those of "
        "rates of empty and cut summaries are Wilson's over documents.",
        "A document counts once, with "
        + ("the best score" if comparison.settings.scoring.references == "best" else "the mean")
        + " over its references and the mean over its aspects.",
        "ROUGE-L takes a text for one sentence; ROUGE-Lsum takes each line for one.",
    ]
    return [table.to_markdown(found, "method or control"), " ".join(said), *differences.others(comparison, markdown)]


def controls(comparison: Comparison) -> list[str]:
    """The rows that train nothing."""
    if not comparison.controls:
        return ["No control was run."]
    return [
        "Controls train nothing. They show what a trained method has to beat.",
        table.to_markdown(table.controls(comparison, markdown), "control"),
    ]


def figure(image: Image) -> str:
    """A plot, by a relative link."""
    return f"![{markdown(image.caption)}](plots/{image.path.name})"
