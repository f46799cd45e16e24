"""What the gate says on a pull request: one comment, and the summary of a CI step. No text in it is active.

GitHub takes 65,536 characters of a comment and 1 MiB of a step summary; both get the same text.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bakeoff.gate.baseline import Record
from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import METRICS, Prediction
from bakeoff.report import figures, table
from bakeoff.report import gate as gates
from bakeoff.report.escape import clip, markdown

LIMIT = 60_000
"""Bytes of a comment: below 65,536 characters, and with room for a line that a workflow adds."""
LOST = 3
"""Documents that are shown."""
BUDGETS = ((60, 30, 400), (30, 12, 200), (10, 4, 80), (3, 1, 40), (0, 0, 0))
"""Rows of the table, sentences below it and characters of a text, the next where a comment is too long."""
FIRST = ("regressed", None, "inconclusive", "improved", "passed")
"""Verdicts in the order in which they are shown."""


@dataclass(frozen=True)
class Loss:
    """A document on which a method scored lower than its baseline."""

    method: str
    document: str
    change: float
    """Measured minus accepted, F1, the mean over seeds and over ROUGE-1, ROUGE-2 and ROUGE-L."""
    reference: str
    summary: str
    """Of the first seed."""


def render(preset: str, gate: Gate, strict: bool, losses: Sequence[Loss], link: str = "") -> str:
    """The comment, at most LIMIT bytes; `link` is the address of the whole report."""
    for rows, sentences, characters in BUDGETS:
        text = whole(preset, gate, strict, losses, link, rows, sentences, characters)
        if len(text.encode()) <= LIMIT:
            return text
    return f"{marker(preset)}\n## Bakeoff\n\nThe verdicts are too long for a comment; they are in the report.\n"


def whole(
    preset: str, gate: Gate, strict: bool, losses: Sequence[Loss], link: str, rows: int, sentences: int, characters: int
) -> str:
    """The comment with at most so many rows of the table, sentences below it and characters of a text."""
    order = sorted(gate.verdicts, key=lambda one: (FIRST.index(one.word), -abs(one.contrast.difference)))
    parts = [
        f"{marker(preset)}\n## {headline(gate, strict)}",
        f"Preset {cut(preset, 80)}, against {cut(gate.baseline, 200)}.",
    ]
    if order[:rows]:
        shown = replace(gate, verdicts=tuple(order[:rows]))
        parts.append(table.to_markdown(gates.frame(shown, lambda text: cut(text, max(characters, 40))), "method"))
    if len(order) > rows:
        parts.append(f"{figures.number(len(order) - rows, 'verdict')} more in the report.")
    said = gates.lines(gate, lambda text: cut(text, max(characters, 40)))
    if said[:sentences]:
        parts.append("\n".join(f"- {one}" for one in said[:sentences]))
    if losses and characters:
        parts += lost(losses, characters)
    if link:
        parts.append(f"[The whole report]({link})")
    return "\n\n".join(parts) + "\n"


def headline(gate: Gate, strict: bool) -> str:
    """The verdict in one line."""
    failed = gate.failures(strict)
    said = []
    for word, shown in (("regressed", "regressed"), ("inconclusive", "inconclusive"), (None, "without a verdict")):
        if number := sum(one.word == word for one in failed):
            said.append(f"{number} {shown}")
    if gate.refusals:
        said.append(f"{len(gate.refusals)} refused")
    passed = len(gate.verdicts) - len(failed)
    if said:
        return f"Bakeoff's gate is red: {figures.listing(said)}, {passed} of {len(gate.verdicts)} verdicts green"
    doubtful = sum(one.word == "inconclusive" for one in gate.verdicts)
    also = f", {doubtful} of them inconclusive" if doubtful else ""
    return f"Bakeoff's gate is green: {figures.number(passed, 'verdict')}{also}"


def lost(losses: Sequence[Loss], characters: int) -> list[str]:
    """The documents that lost most, with what was written of them."""
    rows = [
        [cut(one.document, 80), cut(one.method, 80), gates.signed(one.change), cut(one.reference, characters),
         cut(one.summary, characters)]
        for one in losses
    ]  # fmt: skip
    header = ["document", "method", "change", "reference", "summary now"]
    note = "Change is the mean over ROUGE-1, ROUGE-2 and ROUGE-L (F1 x 100). The summary is that of the first seed."
    return ["### Documents that lost most", table.text_table(header, rows), note]


def losses(
    gate: Gate, measured: Record, accepted: Record, predictions: Mapping[str, Sequence[Prediction]]
) -> list[Loss]:
    """The LOST documents whose mean fell most, each with the method that fell most on it; fewer if fewer fell.

    `predictions` are those of one run by method. Methods that the gate refused are left out.
    """
    worst: dict[str, Loss] = {}
    for method in dict.fromkeys(one.method for one in gate.verdicts):
        theirs = dict(zip(accepted.documents, means(accepted, method), strict=True))
        written = {one.id: one for one in reversed(predictions.get(method, ()))}  # the first of several aspects
        for document, mean in zip(measured.documents, means(measured, method), strict=True):
            if document not in theirs or mean >= theirs[document]:
                continue
            change, made = mean - theirs[document], written.get(document)
            if document not in worst or change < worst[document].change:
                texts = (made.references[0] if made.references else made.reference, made.summary) if made else ("", "")
                worst[document] = Loss(method, document, change, *texts)
    return sorted(worst.values(), key=lambda one: one.change)[:LOST]


def means(record: Record, method: str) -> list[float]:
    """Of each document, over seeds and METRICS."""
    rows = [row for metric in METRICS for row in record.methods[method].rows(metric)]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def marker(preset: str) -> str:
    """A line that nobody sees, by which a workflow finds the comment of a preset again."""
    return f"<!-- bakeoff gate: {re.sub(r'[^A-Za-z0-9_.]', '_', preset)[:80]} -->"


def cut(text: str, characters: int) -> str:
    """Untrusted text as inert Markdown, its first characters."""
    return markdown(clip(text.strip(), characters)) or "(empty)"


def link_here() -> str:
    """The address of the artifacts of this GitHub Actions run; empty elsewhere."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    address = f"{server}/{repository}/actions/runs/{run}#artifacts"
    return (
        address if run and re.fullmatch(r"https://[\w.:-]+/[\w.-]+/[\w.-]+/actions/runs/\d+#artifacts", address) else ""
    )
