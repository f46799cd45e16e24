"""Sentences about scores: the order of the means, and what the tests tell apart; never the one for the other."""

from collections.abc import Callable, Mapping

from bakeoff.report.comparison import MANY, Comparison, Row, extreme
from bakeoff.report.figures import listing
from bakeoff.scoring.api import Facts

Quote = Callable[[str], str]
"""Makes untrusted text inert for where the sentence goes."""


def performance(comparison: Comparison, quote: Quote) -> list[str]:
    """Order of the means, what the tests tell apart, what they cover, and where the controls stand."""
    rows = comparison.methods
    if not rows:
        return ["No trained method finished, so no scores are compared."]
    said = []
    for metric in comparison.verdicts:
        said.append(order({row.name: comparison.mean(metric, row) for row in rows}, comparison.facts(metric), quote))
        said += verdicts(comparison, metric, quote) if len(rows) <= MANY else []
    said += caveat(comparison, quote)
    if len(rows) > MANY:
        return said + [sentence for control in comparison.controls if (sentence := beaten(comparison, control, quote))]
    return said + [sentence for row in rows for sentence in against_controls(comparison, row, quote)]


def order(means: Mapping[str, float], facts: Facts, quote: Quote) -> str:
    """The means (by name) from the best on; an order of means, not a verdict."""
    lowest = facts.better == "lower"
    best, word = extreme(means, facts.show, lowest=lowest), "lowest" if lowest else "highest"
    label, top = facts.label, facts.show(means[best[0]])
    if len(means) == 1:
        return f"{label}: {quote(best[0])} has the mean {top}."
    if len(best) == len(means):
        return f"{label}: {listing([quote(name) for name in best])} have the same mean, {top}."
    rest = sorted((name for name in means if name not in best), key=lambda name: means[name] * (1 if lowest else -1))
    others = [f"{quote(name)} {facts.show(means[name])}" for name in rest]
    if len(others) > MANY:
        others = [*others[: MANY - 2], f"{len(others) - MANY + 1:,} more", others[-1]]
    return f"{label}: the {word} mean is {top}, by {listing([quote(name) for name in best])}; then {', '.join(others)}."


def verdicts(comparison: Comparison, metric: str, quote: Quote) -> list[str]:
    """What the corrected tests tell apart on one metric, and what they don't; nothing where there was no test."""
    said = []
    label, word = comparison.label(metric), "below" if comparison.falls(metric) else "above"
    for row in comparison.methods:
        over = [pair for pair in comparison.pairs if pair.metric == metric and comparison.better(pair) == row.name]
        others = [pair.second if pair.first == row.name else pair.first for pair in over]
        if others:
            said.append(f"{quote(row.name)} is {word} {listing([quote(name) for name in others])} on {label}.")
    for group in comparison.alike(metric) or []:
        if len(group) > 1:
            said.append(f"{listing([quote(name) for name in group])} are not distinguishable on {label}.")
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
        return reached(comparison, row, quote)
    said = []
    for words, holds in (
        ("is above", lambda pair: pair.higher == pair.first),
        ("is not distinguishable from", lambda pair: not pair.different),
        ("is below", lambda pair: pair.higher == pair.second),
    ):
        found: dict[str, list[str]] = {}
        for pair in filter(holds, pairs):
            found.setdefault(pair.second, []).append(comparison.label(pair.metric))
        if found and sum(map(len, found.values())) == len(pairs) and words == "is above":
            said.append(f"{quote(row.name)} is above every control on every metric.")
        elif found:
            names = ", ".join(f"{quote(name)} ({', '.join(labels)})" for name, labels in found.items())
            said.append(f"{quote(row.name)} {words} {names}.")
    return said


def reached(comparison: Comparison, row: Row, quote: Quote) -> list[str]:
    """The controls whose mean is not worse than that of `row`, by metric."""
    if not comparison.controls:
        return []
    found = []
    for control in comparison.controls:
        labels = [comparison.label(metric) for metric in comparison.verdicts
                  if not above(comparison, metric, row, control)]  # fmt: skip
        if labels:
            found.append(f"{quote(control.name)} ({', '.join(labels)})")
    if not found:
        return [f"The mean of {quote(row.name)} is above that of every control on every metric."]
    return [f"Controls with a mean at or above that of {quote(row.name)}: {', '.join(found)}."]


def above(comparison: Comparison, metric: str, row: Row, control: Row) -> bool:
    """Whether the mean of `row`, as it is printed, is better than that of a control; so is any mean than none."""
    known = control.interval(metric)
    if known is None:
        return True
    show = comparison.facts(metric).show
    ours, theirs = float(show(comparison.mean(metric, row))), float(show(known.mean))
    return ours < theirs if comparison.falls(metric) else ours > theirs


def beaten(comparison: Comparison, control: Row, quote: Quote) -> str:
    """How many methods a control stands behind, by the tests where there were any."""
    rows, metrics = comparison.methods, comparison.verdicts
    pairs = {(pair.first, pair.metric): pair for pair in comparison.control_pairs if pair.second == control.name}
    if tested := bool(pairs) and all(pair.tested for pair in pairs.values()):
        over = [row for row in rows if all(
            (row.name, metric) in pairs and comparison.better(pairs[row.name, metric]) == row.name for metric in metrics
        )]  # fmt: skip
    else:
        over = [row for row in rows if all(above(comparison, metric, row, control) for metric in metrics)]
    what = "are told from" if tested else "have better means than"
    return f"{len(over):,} of {len(rows):,} methods {what} {quote(control.name)} on every metric" + (
        " and are better." if tested else "."
    )
