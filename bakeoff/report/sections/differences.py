"""The differences between rows: a table of pair x metric."""

from collections.abc import Callable, Sequence

import pandas as pd

from bakeoff.report.comparison import MANY, Comparison
from bakeoff.report.figures import listing, p_value
from bakeoff.report.table import to_markdown
from bakeoff.stats.pairs import ALPHA, Pair

Quote = Callable[[str], str]


def section(comparison: Comparison, quote: Quote) -> list[str]:
    """How to read it, the pairs of methods, and the methods against the controls."""
    parts = []
    if comparison.pairs:
        chosen, said = few(comparison, comparison.pairs, quote)
        parts += [reading(comparison, comparison.pairs), *said, to_markdown(frame(comparison, chosen, quote), "pair")]
    if comparison.control_pairs:
        chosen, said = few(comparison, comparison.control_pairs, quote)
        parts += ["Methods against the controls, which no seed changes; p is corrected among these pairs:",
                  *said, to_markdown(frame(comparison, chosen, quote), "pair")]  # fmt: skip
    return parts or ["There is no pair to compare."]


def others(comparison: Comparison, quote: Quote) -> list[str]:
    """The pairs of methods on the metrics that carry no verdict."""
    if not comparison.other_pairs:
        return []
    if len(comparison.methods) > MANY:
        return [
            "Differences on these metrics stand in results.json (`metric_pairs`) and on the page; none is a verdict."
        ]
    intro = "The same differences on these metrics, with p corrected over the pairs of each metric; none is a verdict:"
    return [intro, to_markdown(frame(comparison, comparison.other_pairs, quote), "pair")]


def few(comparison: Comparison, pairs: Sequence[Pair], quote: Quote) -> tuple[Sequence[Pair], list[str]]:
    """All pairs; of more than MANY methods those with a method of the best mean, and a sentence that says so."""
    if len(comparison.methods) <= MANY:
        return pairs, []
    best = comparison.highest(comparison.main)[:1]
    chosen = [pair for pair in pairs if pair.first in best or pair.second in best]
    label = comparison.label(comparison.main)
    said = f"Shown are the pairs with {listing([quote(name) for name in best])}, which has the best mean of {label}."
    return chosen, [f"{said} The other pairs are in results.json."]


def reading(comparison: Comparison, pairs: Sequence[Pair]) -> str:
    """What a cell says."""
    said = [
        "A cell holds the difference (first minus second, in the unit of the table of figures), its 95 % interval, the "
        "two-sided p, and the documents that the first wins / ties / loses. p is Holm-corrected over the pairs of the "
        "metric and the interval is that of its pair alone, so an interval may exclude 0 although p does not tell the "
        "pair apart.",
    ]
    if all(pair.tested for pair in pairs):
        said.append(f"Two rows are told apart if p is below {ALPHA}; it covers the noise of documents and of seeds.")
    else:
        said.append('"Documents only" means that the variance between seeds is not known. The test then covers another '
                    "draw of documents but not another seed, and gives no verdict.")  # fmt: skip
    return " ".join(said)


def frame(comparison: Comparison, pairs: Sequence[Pair], quote: Quote) -> pd.DataFrame:
    """One pair a row, one metric a column; empty where no document has a value of both."""
    found = {(pair.first, pair.second, pair.metric): cell(comparison, pair) for pair in pairs}
    couples = dict.fromkeys((pair.first, pair.second) for pair in pairs)
    metrics = dict.fromkeys(pair.metric for pair in pairs)
    cells = [[found.get((first, second, metric), "") for metric in metrics] for first, second in couples]
    index = [f"{quote(first)} - {quote(second)}" for first, second in couples]
    return pd.DataFrame(cells, index=index, columns=[comparison.label(metric) for metric in metrics], dtype=object)


def cell(comparison: Comparison, pair: Pair) -> str:
    """`+1.20 [0.10, 2.30], p 0.031, 60/2/38`."""
    contrast, facts = pair.contrast, comparison.facts(pair.metric)
    difference = f"{facts.signed(contrast.difference)} {facts.bounds(contrast.low, contrast.high)}".rstrip()
    p = "no test" if contrast.low is None else f"p {p_value(pair.p)}"
    parts = [difference, p, f"{pair.wins}/{pair.ties}/{pair.losses}"]
    return ", ".join(parts if pair.tested else [*parts, "documents only"])
