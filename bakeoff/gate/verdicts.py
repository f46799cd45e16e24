"""The gate: whether methods write worse summaries than their accepted baseline, and how sure that is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bakeoff.gate.baseline import Record, Scored
from bakeoff.metrics.rouge import METRICS, same_scores
from bakeoff.stats.contrasts import Contrast, SeedVariance, contrast, detectable, needed
from bakeoff.stats.intervals import holm

POWER = 0.8
"""Share of cases in which the smallest drop that a verdict prints would have been found."""

Word = Literal["passed", "improved", "regressed", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """One method on one metric against its baseline; scores are F1 in 0..1."""

    method: str
    metric: str
    word: Word | None
    """None where nothing measures the noise between seeds: then no verdict is given."""
    measured: float
    accepted: float
    contrast: Contrast
    """Measured minus accepted."""
    p: float
    """Holm-corrected over all verdicts."""
    smallest: float | None
    """The smallest drop that would have been found in 80 % of cases, F1; None where nothing measures the noise."""
    remedy: str
    """What would settle it; empty unless it is inconclusive."""


@dataclass(frozen=True)
class Gate:
    """What the gate says of every method that was to run."""

    baseline: str
    """The file, or what stands for it."""
    tolerance: float
    """Points of ROUGE."""
    alpha: float
    verdicts: tuple[Verdict, ...]
    refusals: Mapping[str, str]
    """Why a method could not be compared, by method; the gate fails for each."""
    changes: Mapping[str, tuple[str, ...]]
    """Settings, machine and versions that are not those of the baseline, by method."""
    absent: tuple[str, ...] = ()
    """Methods of the baseline that were not asked for."""

    def verdict(self, method: str, metric: str) -> Verdict | None:
        """The verdict, None where the method was refused."""
        return next((v for v in self.verdicts if (v.method, v.metric) == (method, metric)), None)

    def failures(self, strict: bool = False) -> list[Verdict]:
        """Verdicts that turn the gate red."""
        red = ("regressed", "inconclusive", None) if strict else ("regressed", None)
        return [verdict for verdict in self.verdicts if verdict.word in red]


def judge(
    measured: Record | None,
    accepted: Record | None,
    *,
    tolerance: float,
    alpha: float,
    asked: Sequence[str],
    dead: Mapping[str, str] | None = None,
    spreads: Mapping[str, Mapping[str, SeedVariance]] | None = None,
    baseline: str = "the baseline",
    remedy: str = "to accept what is measured now, type --seeds 1,2,3,4,5 --update-baseline",
    unscored: str = "",
    metrics: Sequence[str] = METRICS,
    lower: Collection[str] = (),
) -> Gate:
    """Verdicts for the methods `asked`; what can't be compared is refused, each with its reason and what to type.

    `unscored` says what the tokenizer of the scores does not know, if so: then scores that are all 0 are none.
    `tolerance` is in points of ROUGE; `dead` gives the cause by method; `spreads` holds by metric the
    variance between seeds for two sides with one seed each; `remedy` ends every refusal
    that a new baseline would mend. `metrics` are judged; of those in `lower` a lower value is the better one.
    """
    spreads = spreads or {}
    refusals: dict[str, str] = {}
    pairs: dict[str, tuple[Scored, Scored]] = {}
    for method in asked:
        reason = refusal(method, measured, accepted, (dead or {}).get(method, ""), baseline, remedy, unscored, metrics)
        if reason:
            refusals[method] = reason
        elif measured is not None and accepted is not None:
            pairs[method] = (measured.methods[method], accepted.methods[method])
    found: list[tuple[str, str, Contrast]] = []
    means: dict[tuple[str, str], tuple[float, float]] = {}
    for method, (new, old) in pairs.items():
        assert measured is not None and accepted is not None
        places = [accepted.documents.index(name) for name in measured.documents]
        for metric in metrics:
            ours = new.rows(metric)
            theirs = [[row[place] for place in places] for row in old.rows(metric)]
            found.append((method, metric, contrast(ours, theirs, spread=spreads.get(method, {}).get(metric))))
            means[method, metric] = mean(ours), mean(theirs)
    corrected = holm([one.p for _, _, one in found])
    share = alpha / max(1, len(found))  # what one drop alone has to be below under Holm
    verdicts = []
    for (method, metric, one), p in zip(found, corrected, strict=True):
        word = word_of(one, p, tolerance / 100, alpha, metric in lower)
        verdicts.append(
            Verdict(
                method,
                metric,
                word,
                *means[method, metric],
                one,
                p,
                smallest=detectable(one, share, POWER, tolerance / 100) if word else None,
                remedy=settling(one, share, tolerance / 100) if word == "inconclusive" else "",
            )
        )
    return Gate(
        baseline=baseline,
        tolerance=tolerance,
        alpha=alpha,
        verdicts=tuple(verdicts),
        refusals=refusals,
        changes={method: changes(new, old) for method, (new, old) in pairs.items()},
        absent=tuple(sorted(set(accepted.methods) - set(asked))) if accepted else (),
    )


def word_of(found: Contrast, p: float, tolerance: float, alpha: float, lower: bool = False) -> Word | None:
    """The verdict on a difference (F1) with its corrected p; None where nothing measures the noise between seeds."""
    if found.kind == "documents only":
        return None
    if abs(found.difference) <= tolerance:
        return "passed"
    if (found.difference > 0) != lower:
        return "improved" if p < alpha else "passed"
    return "regressed" if p < alpha else "inconclusive"


def settling(found: Contrast, alpha: float, tolerance: float) -> str:
    """Seeds or documents that would settle an inconclusive drop."""
    more = needed(found, alpha, POWER, tolerance)
    if more is None:
        return "no number of seeds or documents was found that would settle it"
    parts = []
    if more.seeds > max(found.seeds):
        parts.append(f"{more.seeds} seeds a side (now {found.seeds[0]} against {found.seeds[1]})")
    if more.documents > found.documents:
        parts.append(f"{more.documents:,} documents (now {found.documents:,})")
    if not parts:
        return f"{more.seeds} seeds on this side (now {found.seeds[0]}) would find a drop of this size"
    return f"{' and '.join(parts)} would find a drop of this size in {POWER:.0%} of cases"


def refusal(
    method: str, measured: Record | None, accepted: Record | None, dead: str, baseline: str, accept: str,
    unscored: str = "", metrics: Sequence[str] = METRICS,
) -> str:  # fmt: skip
    """Why `method` can't be compared, in one line with what to type; empty where it can."""
    if dead:
        return f"the run is dead: {dead}"
    if accepted is None:
        return f"there is no baseline {baseline}; {accept}"
    if method not in accepted.methods:
        return (
            f"the baseline {baseline} has no method {method!r} (there: {', '.join(sorted(accepted.methods))}); {accept}"
        )
    if measured is None or method not in measured.methods:
        return "it has no finished run in this session; run bench/ without -k and without -x"
    if not same_scores(measured.signature, accepted.signature):
        return (
            f"its scores are made as {measured.signature!r}, the baseline's as {accepted.signature!r}; "
            f"install the baseline's versions, or {accept}"
        )
    ours, theirs = set(measured.documents), set(accepted.documents)
    if ours != theirs:
        return (
            f"its {len(ours)} test documents are not the baseline's {len(theirs)}: {len(theirs - ours)} are missing, "
            f"{len(ours - theirs)} are new; run it on the baseline's documents, or {accept}"
        )
    if measured.texts and accepted.texts and measured.texts != accepted.texts:
        return f"its test documents or their references have other texts than the baseline's; {accept}"
    for metric in metrics:
        for side, record in (("it", measured), (f"the baseline {baseline}", accepted)):
            if metric not in record.methods[method].scores:
                return (
                    f"{side} has no score of {metric} for every document; take it out of scoring.verdicts, or {accept}"
                )
        ways = [record.metrics.get(metric, "") for record in (measured, accepted)]
        if ways[0] != ways[1]:
            return f"its {metric} is made as {ways[0]!r}, the baseline's as {ways[1]!r}; {accept}"
    if unscored and all(zeros(side.methods[method]) for side in (measured, accepted)):
        return f"every score is 0, in the baseline, too, so nothing is compared: {unscored}"
    new, old = measured.methods[method].parameters, accepted.methods[method].parameters
    if new != old:
        return f"its parameter counts changed: {', '.join(differences(old or {}, new or {}))}; {accept}"
    return ""


def zeros(side: Scored) -> bool:
    """Whether every score of a method is 0."""
    return not any(score for metric in METRICS for row in side.rows(metric) for score in row)


def changes(new: Scored, old: Scored) -> tuple[str, ...]:
    """`training.learning_rate 0.001 -> 0.0` for each setting, then for each fact about the machine and versions."""
    return (*differences(old.settings, new.settings), *differences(old.environment, new.environment))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, sorted; behind them those that only one side has, as after a new setting."""
    return [
        f"{key} {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted({*old, *new}, key=lambda key: (key not in old or key not in new, key))
        if old.get(key) != new.get(key)
    ]


def mean(rows: Sequence[Sequence[float]]) -> float:
    """Over seeds and documents."""
    return sum(sum(row) for row in rows) / sum(len(row) for row in rows)
