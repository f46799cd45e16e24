"""Sentences about scores: the order of the means, and what the tests tell apart; never the one for the other."""

from collections.abc import Callable, Mapping, Sequence

from bakeoff.metrics.rouge import METRICS
from bakeoff.report.comparison import Comparison, Row, extreme, points
from bakeoff.report.figures import ROUGE, listing

Quote = Callable[[str], str]
"""Makes untrusted text inert for where the sentence goes."""


def performance(comparison: Comparison, quote: Quote) -> list[str]:
    """Order of the means, what the tests tell apart, what they cover, and where the controls stand."""
    rows = comparison.methods
    if not rows:
        return ["No trained method finished, so no scores are compared."]
    said = []
    for metric in ROUGE:
        said.append(order({row.name: row.rouge[metric].mean for row in rows}, metric, quote))
        said += verdicts(comparison, metric, quote)
    said += caveat(comparison, quote)
    return said + [sentence for row in rows for sentence in against_controls(comparison, row, quote)]


def order(means: Mapping[str, float], metric: str, quote: Quote) -> str:
    """The means (F1 in 0..1, by name) from the highest on; an order of means, not a verdict."""
    label, best = ROUGE[metric], extreme(means, points)
    top = points(max(means.values()))
    if len(means) == 1:
        return f"{label}: {quote(best[0])} has the mean {top}."
    if len(best) == len(means):
        return f"{label}: {listing([quote(name) for name in best])} have the same mean, {top}."
    rest = sorted((name for name in means if name not in best), key=lambda name: -means[name])
    others = ", ".join(f"{quote(name)} {points(means[name])}" for name in rest)
    return f"{label}: the highest mean is {top}, by {listing([quote(name) for name in best])}; then {others}."


def verdicts(comparison: Comparison, metric: str, quote: Quote) -> list[str]:
    """What the corrected tests tell apart on one metric, and what they don't; nothing where there was no test."""
    said = []
    for row in comparison.methods:
        above = [pair for pair in comparison.pairs if pair.metric == metric and pair.higher == row.name]
        below = [pair.second if pair.first == row.name else pair.first for pair in above]
        if below:
            said.append(f"{quote(row.name)} is above {listing([quote(name) for name in below])} on {ROUGE[metric]}.")
    for group in comparison.alike(metric) or []:
        if len(group) > 1:
            said.append(f"{listing([quote(name) for name in group])} are not distinguishable on {ROUGE[metric]}.")
    return said


def caveat(comparison: Comparison, quote: Quote) -> list[str]:
    """What the intervals and tests cover."""
    rows = comparison.methods
    if len(comparison.document_ids) < 2:
        return ["One test document gives no interval, so no claim is made about which method is better."]
    single = [row for row in rows if len(row.runs) == 1]
    unknown = [quote(row.name) for row in single if not row.borrowed]
    lent: dict[str, list[str]] = {}
    for row in single:
        for source in dict.fromkeys(variance.source for variance in row.borrowed.values()):
            lent.setdefault(source, []).append(quote(row.name))
    said = []
    if unknown:
        claim = ", so no claim is made about which method is better" if len(rows) > 1 else ""
        said.append(f"{listing(unknown)} ran with one seed and the variance between seeds was not measured elsewhere: "
                    f"documents only{claim}. For more seeds, type --seeds 42,43,44.")  # fmt: skip
    for source, names in lent.items():
        said.append(f"{listing(names)} ran with one seed; the variance between seeds is that of the {source}.")
    if not single:
        said.append("The intervals and tests cover another draw of documents and of seeds.")
    return said


def against_controls(comparison: Comparison, row: Row, quote: Quote) -> list[str]:
    """Where the controls stand: by the tests, or by the means where there was no test."""
    pairs = [pair for pair in comparison.control_pairs if pair.first == row.name]
    if not all(pair.tested for pair in pairs):
        return reached(row, comparison.controls, quote)
    said = []
    for words, holds in (
        ("is above", lambda pair: pair.higher == pair.first),
        ("is not distinguishable from", lambda pair: not pair.different),
        ("is below", lambda pair: pair.higher == pair.second),
    ):
        found: dict[str, list[str]] = {}
        for pair in filter(holds, pairs):
            found.setdefault(pair.second, []).append(ROUGE[pair.metric])
        if found and sum(map(len, found.values())) == len(pairs) and words == "is above":
            said.append(f"{quote(row.name)} is above every control on every metric.")
        elif found:
            names = ", ".join(f"{quote(name)} ({', '.join(labels)})" for name, labels in found.items())
            said.append(f"{quote(row.name)} {words} {names}.")
    return said


def reached(row: Row, controls: Sequence[Row], quote: Quote) -> list[str]:
    """The controls whose mean is not below that of `row`, by metric."""
    if not controls:
        return []
    found = []
    for control in controls:
        labels = [
            ROUGE[metric]
            for metric in METRICS
            if float(points(control.rouge[metric].mean)) >= float(points(row.rouge[metric].mean))
        ]
        if labels:
            found.append(f"{quote(control.name)} ({', '.join(labels)})")
    if not found:
        return [f"The mean of {quote(row.name)} is above that of every control on every metric."]
    return [f"Controls with a mean at or above that of {quote(row.name)}: {', '.join(found)}."]
