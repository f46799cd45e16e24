"""The differences between rows: a table of pair x metric."""

from collections.abc import Callable, Sequence

import pandas as pd

from bakeoff.report.comparison import Comparison
from bakeoff.report.figures import ROUGE, p_value, signed, span
from bakeoff.report.table import to_markdown
from bakeoff.stats.pairs import ALPHA, Pair

Quote = Callable[[str], str]


def section(comparison: Comparison, quote: Quote) -> list[str]:
    """How to read it, the pairs of methods, and the methods against the controls."""
    parts = []
    if comparison.pairs:
        parts += [reading(comparison.pairs), to_markdown(frame(comparison.pairs, quote), "pair")]
    if comparison.control_pairs:
        parts += ["Methods against the controls, which no seed changes; p is corrected among these pairs:",
                  to_markdown(frame(comparison.control_pairs, quote), "pair")]  # fmt: skip
    return parts or ["There is no pair to compare."]


def reading(pairs: Sequence[Pair]) -> str:
    """What a cell says."""
    said = [
        "A cell holds the difference (first minus second, ROUGE F1 x 100), its 95 % interval, the two-sided p, and the "
        "documents that the first wins / ties / loses. p is Holm-corrected over the pairs of the metric and the "
        "interval is that of its pair alone, so an interval may exclude 0 although p does not tell the pair apart.",
    ]
    if all(pair.tested for pair in pairs):
        said.append(f"Two rows are told apart if p is below {ALPHA}; it covers the noise of documents and of seeds.")
    else:
        said.append('"Documents only" means that the variance between seeds is not known. The test then covers another '
                    "draw of documents but not another seed, and gives no verdict.")  # fmt: skip
    return " ".join(said)


def frame(pairs: Sequence[Pair], quote: Quote) -> pd.DataFrame:
    """One pair a row, one metric a column."""
    found = {(pair.first, pair.second, pair.metric): cell(pair) for pair in pairs}
    couples = dict.fromkeys((pair.first, pair.second) for pair in pairs)
    cells = [[found[first, second, metric] for metric in ROUGE] for first, second in couples]
    index = [f"{quote(first)} - {quote(second)}" for first, second in couples]
    return pd.DataFrame(cells, index=index, columns=list(ROUGE.values()), dtype=object)


def cell(pair: Pair) -> str:
    """`+1.20 [0.10, 2.30], p 0.031, 60/2/38`."""
    contrast = pair.contrast
    difference = f"{signed(contrast.difference)} {span(contrast.low, contrast.high)}".rstrip()
    p = "no test" if contrast.low is None else f"p {p_value(pair.p)}"
    parts = [difference, p, f"{pair.wins}/{pair.ties}/{pair.losses}"]
    return ", ".join(parts if pair.tested else [*parts, "documents only"])
