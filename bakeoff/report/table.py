"""The comparison table: figures as rows, methods as columns; for Markdown and for a terminal."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from bakeoff.methods.parameters import ParameterCounts
from bakeoff.models.memory import Memory
from bakeoff.report import figures
from bakeoff.report.comparison import MEMORY, Comparison, Row, extreme, points
from bakeoff.report.figures import MISSING, bounds, cell
from bakeoff.stats.intervals import letters

COUNTS = {"total": "total", "trainable": "trainable", "frozen": "non-trainable", "added": "added"}
TIMES = {
    "train": "training, s",
    "validation": "validation, s",
    "evaluate": "evaluation, s",
    "setup": "set-up, s",
    "checks": "checks, s",
    "total": "total, s",
}
MANY = 8
"""Methods above which the table has a row for each, and the figures that are looked at first as columns."""
FIRST = ("training, s", "a summary, merged, s", "peak allocated memory", "peak resident memory",
         "parameters, trainable", "adapter size", "cross-entropy of other text, after",
         "KL from the base model")  # fmt: skip
# Columns of a block of the terminal's table: with intervals they fill some 120 characters.
BLOCK = 4


@dataclass(frozen=True)
class Line:
    """One row of the table: a figure of every method."""

    label: str
    figure: Callable[[Row], float | None]
    show: Callable[[float], str] = figures.count
    best: str = ""
    """Which extreme stands in bold: `highest`, `lowest`, or none."""
    metric: str = ""
    """Of ROUGE: adds the interval and the letters to the cell; its bold follows from the verdicts."""


def lines(rows: Sequence[Row]) -> list[Line]:
    """The rows of the table of `rows`; a figure that none of them has gives no row."""
    found = [
        Line(f"{label} F1 x 100", functools.partial(mean_of, metric), points, metric=metric)
        for metric, label in figures.SHOWN.items()
    ]
    found += [
        Line(f"{label}, SD between seeds", lambda row, m=metric: row.spread[m], points)  # type: ignore[misc]
        for metric, label in figures.ROUGE.items()
    ]
    found += [
        Line(label, lambda row, n=name: row.seconds[n], figures.seconds, "lowest")  # type: ignore[misc]
        for name, label in TIMES.items()
    ]
    found += [Line("training tokens/s", lambda row: row.tokens_per_second, figures.rate, "highest")]
    found += [
        Line(figures.MEMORY[counter], lambda row, c=counter: row.memory_bytes[c], figures.size, "lowest")  # type: ignore[misc]
        for counter in MEMORY
    ]
    found += side_effects()
    for heading, pick in (("parameters", once), ("parameters with ties", with_ties)):
        found += [
            Line(f"{heading}, {label}", lambda row, p=pick, f=field: getattr(p(row), f, None))  # type: ignore[misc]
            for field, label in COUNTS.items()
        ]
    found += [
        Line("adapter size", lambda row: row.adapter_bytes, figures.size, "lowest"),
        Line("settings tried on validation", lambda row: row.trials),
    ]
    return [line for line in found if any(line.figure(row) is not None for row in rows)]


def side_effects() -> list[Line]:
    """Rows of what was measured beside the task, if it was."""
    shown = {
        "before": ("cross-entropy of other text, before", ""),
        "after": ("cross-entropy of other text, after", "lowest"),
        "divergence": ("KL from the base model", "lowest"),
    }
    found = [Line(label, functools.partial(forgotten, name), figures.nats, best)
             for name, (label, best) in shown.items()]  # fmt: skip
    for form in ("attached", "merged"):
        found += [
            Line(f"a summary, {form}, s", functools.partial(spent, form, "seconds"), figures.seconds),
            Line(f"weights, {form}", functools.partial(spent, form, "bytes"), figures.size),
        ]
    return found


def forgotten(name: str, row: Row) -> float | None:
    """Of the cross-entropy and divergence; None where it was not measured."""
    return row.forgetting.get(name)


def spent(form: str, name: str, row: Row) -> float | None:
    """Of writing in a form; None where it was not measured."""
    return row.inference.get(form, {}).get(name)


def mean_of(metric: str, row: Row) -> float | None:
    """Of ROUGE; None where the row's runs were not scored by this metric."""
    return row.rouge[metric].mean if metric in row.rouge else None


def once(row: Row) -> ParameterCounts | None:
    """The counts with each tensor once."""
    return row.parameters


def with_ties(row: Row) -> ParameterCounts | None:
    """The counts with a tied tensor at each of its names."""
    return row.parameters.with_ties() if row.parameters else None


def bold(line: Line, rows: Sequence[Row]) -> tuple[str, ...]:
    """Names whose cell of `line` stands in bold: the best, unless there is nothing to tell it from."""
    if not line.best:
        return ()
    values = {row.name: line.figure(row) for row in rows}
    best = extreme(values, line.show, lowest=line.best == "lowest")
    measured = [value for value in values.values() if value is not None]
    return best if len(best) < len(measured) else ()


def heading(comparison: Comparison, row: Row) -> str:
    """A method's name, with the number of its seeds that died."""
    died = sum(death.method == row.name for death in comparison.deaths)
    return f"{row.name} ({figures.number(died, 'seed')} dead)" if died else row.name


def frame(
    comparison: Comparison, rows: Sequence[Row], dead: Sequence[str], quote: Callable[[str], str], mark: str = ""
) -> pd.DataFrame:
    """The table of `rows` with columns for the `dead`. `quote` makes names inert; two `mark`s enclose the best."""
    labels, cells = [], []
    for line in lines(rows):
        labels.append(line.label)
        cells.append(row_of_cells(comparison, line, rows, mark) + [MISSING] * len(dead))
    names = [quote(heading(comparison, row)) for row in rows] + [f"{quote(name)} (dead)" for name in dead]
    return pd.DataFrame(cells, index=labels, columns=names, dtype=object)


def row_of_cells(comparison: Comparison, line: Line, rows: Sequence[Row], mark: str) -> list[str]:
    """One figure of every method, the best between two `mark`s, with the letters of the tests."""
    best = comparison.best(line.metric) if line.metric else bold(line, rows)
    shared = letters(comparison.alike(line.metric) or []) if line.metric else {}
    return [_cell(line, row, mark if row.name in best else "", shared.get(row.name, "")) for row in rows]


def by_method(comparison: Comparison, quote: Callable[[str], str], mark: str = "") -> pd.DataFrame:
    """The figures that are looked at first: one method a row, the highest ROUGE-L above, the dead below."""
    rows = sorted(comparison.methods, key=lambda row: -row.rouge["rougeL"].mean)
    found = [line for line in lines(rows) if line.metric in figures.ROUGE or line.label in FIRST]
    dead = [MISSING] * len(comparison.dead)
    cells = {line.label: row_of_cells(comparison, line, rows, mark) + dead for line in found}
    names = [quote(heading(comparison, row)) for row in rows] + [f"{quote(name)} (dead)" for name in comparison.dead]
    return pd.DataFrame(cells, index=names, dtype=object)


def _cell(line: Line, row: Row, mark: str, shared: str) -> str:
    value = line.figure(row)
    text = f"{mark}{MISSING if value is None else line.show(value)}{mark}"
    if line.metric not in row.rouge:
        return text
    return " ".join(part for part in (text, bounds(row.rouge[line.metric]), shared) if part)


def controls(rows: Sequence[Row], quote: Callable[[str], str]) -> pd.DataFrame:
    """The controls' table: one control a row, ROUGE and seconds of evaluation as columns."""
    shown = {metric: label for metric, label in figures.SHOWN.items() if all(metric in row.rouge for row in rows)}
    cells = [
        [f"{points(row.rouge[metric].mean)} {bounds(row.rouge[metric])}".rstrip() for metric in shown]
        + [cell(row.seconds["evaluate"], figures.seconds)]
        for row in rows
    ]
    names = [*(f"{label} F1 x 100" for label in shown.values()), TIMES["evaluate"]]
    return pd.DataFrame(cells, index=[quote(row.name) for row in rows], columns=names, dtype=object)


def parameter_table(counts: Mapping[str, ParameterCounts]) -> str:
    """The four counts of each method, once and with ties, for a terminal."""
    rows = {
        f"{heading}{label}": [figures.count(getattr(pick(found), field)) for found in counts.values()]
        for heading, pick in (("", lambda found: found), ("with ties, ", ParameterCounts.with_ties))
        for field, label in COUNTS.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(counts), dtype=object)
    return to_text(table, "parameters")


def memory_table(estimates: Mapping[str, Memory]) -> str:
    """Estimated bytes of each method, for a terminal."""
    names = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer's moments",
             "activations": "activations", "logits": "logits", "training": "training, all of these",
             "cache": "keys and values", "writing": "writing: weights, keys and values"}  # fmt: skip
    unit, size = ("GB", 1e9) if max(found.training for found in estimates.values()) >= 1e9 else ("MB", 1e6)
    rows = {
        f"{label}, {unit}": [f"{getattr(found, field) / size:.2f}" for found in estimates.values()]
        for field, label in names.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(estimates), dtype=object)
    return to_text(table, "memory, estimated")


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; not padded, so that one long cell doesn't widen every line."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows])


def to_markdown(table: pd.DataFrame, corner: str) -> str:
    """`table` as Markdown, figures to the right; its cells are Markdown already."""
    return _tabulate(table, corner, "pipe")


def to_text(table: pd.DataFrame, corner: str) -> str:
    """`table` for a terminal, in blocks of columns that fit its width."""
    blocks = [table.iloc[:, start : start + BLOCK] for start in range(0, table.shape[1], BLOCK)]
    return "\n\n".join(_tabulate(block, corner, "simple").replace(MISSING, "-") for block in blocks)


def one_block(table: pd.DataFrame, corner: str) -> str:
    """`table` for a terminal, all columns beside each other."""
    return _tabulate(table, corner, "simple").replace(MISSING, "-")


def _tabulate(table: pd.DataFrame, corner: str, style: str) -> str:
    rows = [[label, *cells] for label, cells in zip(table.index, table.to_numpy(), strict=True)]
    align = ("left", *["right"] * table.shape[1])
    return tabulate(
        rows,
        headers=[corner, *table.columns],
        tablefmt=style,
        colalign=align,
        disable_numparse=True,
        preserve_whitespace=True,
    )
