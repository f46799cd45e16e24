"""The comparison as a LaTeX table."""

import re
from collections.abc import Sequence

from bakeoff.core.errors import UsageError, nearest, one_line
from bakeoff.report import figures
from bakeoff.report.exports.results import Results, Row
from bakeoff.report.page.metrics import Metric

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar\allowbreak{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}",
    "*": "{*}", figures.MISSING: "--",
}  # fmt: skip
"""Characters that LaTeX reads as commands or arguments. After a bar, which signatures have, a line may end."""
LIGATURE = re.compile(r"(?<=-)-|(?<=')'|(?<=,),")
"""The second of two characters that fonts print as one."""
HEAD = """\
% Written by bakeoff export. The preamble needs \\usepackage{{booktabs,graphicx}} and \\usepackage[T1]{{fontenc}}.
% lualatex also prints names in scripts that pdflatex has no letters for.
\\begin{{table}}
\\centering
\\caption{{{caption}}}
\\label{{tab:{label}}}
\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%
\\begin{{tabular}}{{{columns}}}
\\toprule
"""
FOOT = """\
\\bottomrule
\\end{tabular}%
}
\\end{table}
"""


def render(results: Results, metrics: Sequence[str] = ()) -> str:
    """A `table` environment with booktabs' rules: methods, then controls; means with intervals and letters.

    `metrics` are those that are shown; empty means ROUGE-1, ROUGE-2 and ROUGE-L. Raises UsageError for one that no row
    was scored by.
    """
    chosen = tuple(metrics) or tuple(metric for metric in figures.ROUGE if metric in results.metrics)
    for metric in chosen:
        if metric not in results.metrics:
            raise UsageError(f"--metric {metric!r} is not among the scores; {nearest(metric, results.metrics)}")
    shared = {metric: results.letters(metric) for metric in chosen}
    costs = {
        "Trainable": lambda row: figures.cell((row.figures.get("parameters") or {}).get("trainable"), figures.count),
        "Training, s": lambda row: figures.cell((row.figures.get("seconds") or {}).get("train"), figures.seconds),
        "Peak memory": lambda row: figures.cell(peak(row), figures.size),
    }
    header = ["Method", *(label(results.metric(metric)) for metric in chosen), *costs]
    groups = [[row for row in results.rows if row.control == control] for control in (False, True)]
    blocks = []
    for rows in filter(None, groups):
        cells = [
            [
                escape(row.name),
                *(score(row, results.metric(metric), shared[metric].get(row.name, "")) for metric in chosen),
                *(escape(show(row)) for show in costs.values()),
            ]
            for row in rows
        ]
        blocks.append("".join(line(row) for row in cells))
    head = HEAD.format(
        caption=caption(results, any(shared.values())),
        label="".join(
            character if character.isascii() and character.isalnum() else "-" for character in results.preset
        ),
        columns="l" + "r" * (len(header) - 1),
    )
    return head + "\\midrule\n".join([line([escape(name) for name in header]), *blocks]) + FOOT


def line(cells: Sequence[str]) -> str:
    """A row of the table."""
    return " & ".join(cells) + " \\\\\n"


def label(metric: Metric) -> str:
    """A metric's name with its unit."""
    return f"{metric.label} {metric.unit}".rstrip()


def score(row: Row, metric: Metric, letters: str) -> str:
    """Mean, letters as a superscript, and interval; a dash where the row has no such score."""
    found = row.intervals.get(metric.key)
    if found is None:
        return escape(figures.MISSING)
    raised = f"\\textsuperscript{{{escape(letters)}}}" if letters else ""
    bounds = metric.bounds({"low": found.low, "high": found.high})
    return f"{metric.show(found.mean)}{raised} {bounds}".rstrip()


def peak(row: Row) -> float | None:
    """Bytes at the peak: of a GPU's allocations, else of the process; None where neither was measured."""
    memory = row.figures.get("memory_bytes") or {}
    found = [memory.get(name) for name in ("max_allocated", "max_resident")]
    return next((value for value in found if value is not None), None)


def caption(results: Results, lettered: bool) -> str:
    """What the table shows, and the signature of its scores."""
    seeds = sorted({len(row.seeds) for row in results.rows if not row.control})
    several = " to ".join(str(number) for number in dict.fromkeys((*seeds[:1], *seeds[-1:])))
    documents = figures.number(len(results.documents), "test document")
    said = [
        f"{escape(results.model)} on {escape(results.task)}: means over {documents}"
        + (f" and {several} {'seed' if several == '1' else 'seeds'}" if several else "")
        + ", with 95\\,\\% intervals in brackets."
    ]
    if lettered:
        said.append("Methods that share a letter cannot be told apart.")
    said.append(f"Signature: {escape(results.signature)}.")
    return " ".join(said)


def escape(text: str) -> str:
    """`text` as LaTeX that prints exactly it, on one line; a dash for a missing figure is an en dash."""
    shown = one_line(text)
    apart = {match.start() for match in LIGATURE.finditer(shown)}
    return "".join(("{}" if n in apart else "") + ESCAPES.get(one, one) for n, one in enumerate(shown))
