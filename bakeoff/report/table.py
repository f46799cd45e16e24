"""The comparison tables: figures and methods, for Markdown and for a terminal."""

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from bakeoff.methods.parameters import ParameterCounts
from bakeoff.models.memory import Memory
from bakeoff.report import figures
from bakeoff.report.comparison import MANY, MEMORY, Comparison, Row, extreme, points
from bakeoff.report.figures import MISSING, cell
from bakeoff.scoring.api import Facts
from bakeoff.stats.intervals import Interval, letters

COUNTS = {"total": "total", "trainable": "trainable", "frozen": "non-trainable", "added": "added"}
TIMES = {
    "train": "training, s",
    "validation": "validation, s",
    "evaluate": "evaluation, s",
    "setup": "set-up, s",
    "checks": "checks, s",
    "total": "total, s",
}
FIRST = ("training, s", "a summary, merged, s", "peak allocated memory", "peak resident memory",
         "parameters, trainable", "adapter size", "cross-entropy of other text, after",
         "KL from the base model")  # fmt: skip
"""The figures of the main table, beside the metrics that carry verdicts."""


@dataclass(frozen=True)
class Line:
    """One row of the table: a figure of every method."""

    label: str
    figure: Callable[[Row], float | None]
    show: Callable[[float], str] = figures.count
    best: str = ""
    """Which extreme stands in bold: `highest`, `lowest`, or none."""
    metric: Facts | None = None
    """Adds the interval and the letters to the cell; the bold of a metric follows from the verdicts."""


def lines(comparison: Comparison, rows: Sequence[Row]) -> list[Line]:
    """The rows of the table of `rows`; a figure that none of them has gives no row."""
    found = [scored(facts) for facts in figures.shown(comparison).values()]
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


def scored(facts: Facts) -> Line:
    """The row of a metric."""
    return Line(figures.titled(facts), functools.partial(mean_of, facts.name), facts.show, metric=facts)


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
    """Of a metric; None where it has no value."""
    found = row.interval(metric)
    return None if found is None else found.mean


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


def main(comparison: Comparison, quote: Callable[[str], str], mark: str = "") -> pd.DataFrame:
    """The figures that are looked at first, one method a column.

    With more than MANY methods each has a row, the best above. `quote` makes names inert; two `mark`s enclose the best.
    """
    rows = comparison.ordered
    found = [scored(comparison.facts(metric)) for metric in comparison.verdicts] if rows else []
    found += [line for line in lines(comparison, rows) if line.label in FIRST]
    table = frame(comparison, rows, quote, mark, found)
    return table.T if len(rows) > MANY else table


def others(comparison: Comparison, quote: Callable[[str], str], mark: str = "") -> pd.DataFrame:
    """The figures that are neither metrics nor in the main table, arranged as that."""
    rows = comparison.ordered
    found = [line for line in lines(comparison, rows) if line.metric is None and line.label not in FIRST]
    table = frame(comparison, rows, quote, mark, found)
    return table.T if len(rows) > MANY else table


def frame(
    comparison: Comparison, rows: Sequence[Row], quote: Callable[[str], str], mark: str, found: Sequence[Line]
) -> pd.DataFrame:
    """The table of `rows`, with columns for the dead."""
    dead = comparison.dead
    cells = [row_of_cells(comparison, line, rows, mark) + [MISSING] * len(dead) for line in found]
    names = [quote(heading(comparison, row)) for row in rows] + [f"{quote(name)} (dead)" for name in dead]
    return pd.DataFrame(cells, index=[line.label for line in found], columns=names, dtype=object)


def row_of_cells(comparison: Comparison, line: Line, rows: Sequence[Row], mark: str) -> list[str]:
    """One figure of every method, the best between two `mark`s, with the letters of the tests."""
    metric = line.metric.name if line.metric else ""
    best = comparison.best(metric) if metric else bold(line, rows)
    shared = letters(comparison.alike(metric) or []) if metric else {}
    longest = max(map(len, shared.values()), default=0)  # letters begin below each other, so figures stand there, too
    shared = {name: text.ljust(longest) for name, text in shared.items()}
    return [_cell(line, row, mark if row.name in best else "", shared.get(row.name, "")) for row in rows]


def _cell(line: Line, row: Row, mark: str, shared: str) -> str:
    value = line.figure(row)
    text = f"{mark}{MISSING if value is None else line.show(value)}{mark}"
    if line.metric is None or (found := row.interval(line.metric.name)) is None:
        return text
    return " ".join(part for part in (text, line.metric.bounds(found.low, found.high), shared) if part)


def controls(comparison: Comparison, quote: Callable[[str], str]) -> pd.DataFrame:
    """The controls' table: one control a row, the metrics that carry verdicts and seconds of evaluation as columns."""
    rows = comparison.controls
    shown = [comparison.facts(metric) for metric in comparison.verdicts]
    cells = [
        [measured(facts, row.interval(facts.name)) for facts in shown]
        + [cell(row.seconds["evaluate"], figures.seconds)]
        for row in rows
    ]
    names = [*map(figures.titled, shown), TIMES["evaluate"]]
    return pd.DataFrame(cells, index=[quote(row.name) for row in rows], columns=names, dtype=object)


def metrics(comparison: Comparison, quote: Callable[[str], str]) -> pd.DataFrame:
    """Every metric that carries no verdict: methods, then controls, one a row."""
    shown = {name: facts for name, facts in figures.shown(comparison).items() if name not in comparison.verdicts}
    shown = {name: facts for name, facts in shown.items() if any(row.interval(name) for row in comparison.rows)}
    cells = [[measured(facts, row.interval(name)) for name, facts in shown.items()] for row in comparison.rows]
    index = [quote(heading(comparison, row)) for row in comparison.rows]
    return pd.DataFrame(cells, index=index, columns=list(map(figures.titled, shown.values())), dtype=object)


def measured(facts: Facts, found: Interval | None) -> str:
    """A mean with its interval; a dash for None."""
    return MISSING if found is None else f"{facts.show(found.mean)} {facts.bounds(found.low, found.high)}".rstrip()


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
    return _tabulate(table, corner, "pipe", list(table.columns))


WIDTH = 100
"""Columns of the terminal that a table may take."""
LONGEST = 32
"""Characters of a name in a terminal's table."""
NARROW = 13
"""Characters to which the heading of a column may be broken."""


def to_text(table: pd.DataFrame, corner: str) -> str:
    """`table` for a terminal, in blocks of columns that fit its width, each block about as wide as the others."""
    columns = table.shape[1]
    for size in range(max(columns, 1), 0, -1):
        count = -(-columns // size) or 1
        even = -(-columns // count)
        blocks = [table.iloc[:, start : start + even] for start in range(0, max(columns, 1), max(even, 1))]
        if size == 1 or all(width(block, corner) <= WIDTH for block in blocks):
            return "\n\n".join(one_block(block, corner) for block in blocks)
    raise AssertionError("a size of 1 returns")


def fitted(table: pd.DataFrame, corner: str) -> tuple[str, list[str]]:
    """`table` for a terminal with the columns that fit its width, and the names of those that don't."""
    kept: list[int] = []
    for place in range(table.shape[1]):
        if not kept or width(table.iloc[:, [*kept, place]], corner) <= WIDTH:
            kept.append(place)
    left = [str(name) for place, name in enumerate(table.columns) if place not in kept]
    return one_block(table.iloc[:, kept], corner), left


def width(table: pd.DataFrame, corner: str) -> int:
    """Characters of the longest line of `table` in a terminal."""
    return max(map(len, one_block(table, corner).splitlines()))


def one_block(table: pd.DataFrame, corner: str) -> str:
    """`table` for a terminal, all columns beside each other, long names cut and long headings broken."""
    cut = table.rename(index=shortened, columns=shortened)
    heads = [
        textwrap.fill(name, max([NARROW, *(len(value) for value in cells)]), break_long_words=False)
        for name, cells in zip(cut.columns, cut.to_numpy().T, strict=True)
    ]
    return _tabulate(cut, corner, "simple", heads).replace(MISSING, "-")


def shortened(name: object) -> str:
    """A name of at most LONGEST characters; a longer one keeps both ends, where rows of one method differ."""
    text, half = str(name), LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"


def _tabulate(table: pd.DataFrame, corner: str, style: str, heads: Sequence[str]) -> str:
    rows = [[label, *cells] for label, cells in zip(table.index, table.to_numpy(), strict=True)]
    align = ("left", *["right"] * table.shape[1])
    return tabulate(
        rows,
        headers=[corner, *heads],
        tablefmt=style,
        colalign=align,
        disable_numparse=True,
        preserve_whitespace=True,
    )
