"""Sentences of the analysis, each checked against random tables by a reader that knows only the runs."""

import math
import re

import numpy as np
import pytest
from factories import run, settings
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import stats

from bakeoff.metrics.rouge import METRICS
from bakeoff.report import analysis
from bakeoff.report.comparison import compare
from bakeoff.runs.records import Death
from bakeoff.stats.contrasts import SeedVariance

LABELS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
PEAKS = {"Peak resident memory": "max_resident", "Peak allocated memory": "max_allocated"}
UNITS = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
PHASES = ("setup", "training", "validation", "evaluation", "checks")
# Means of these over 1, 2, 4 or 8 values have two decimals at most, so no tie hangs on a rounding.
GRID = st.integers(0, 12).map(lambda n: n * 0.08)


@st.composite
def tables(draw):
    """A comparison of 0 to 4 methods and 0 to 2 controls on 1 to 4 documents, with figures missing at random."""
    documents, seeds = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1)]))
    names = draw(st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), max_size=4, unique=True))
    controls = draw(st.lists(st.sampled_from(["lead", "oracle"]), max_size=2, unique=True))

    levels = {}

    def noisy(level):
        """Scores of a method that others can be told from: its level, give or take 0.02 or 0.04."""
        steps = [[draw(st.sampled_from([-0.02, 0.0, 0.02, 0.04])) for _ in range(documents)] for _ in METRICS]
        return {metric: [max(0.0, level + step) for step in row] for metric, row in zip(METRICS, steps, strict=True)}

    def one(name, seed, control):
        booked = draw(st.lists(st.sampled_from(PHASES), unique=True)) if draw(st.booleans()) else PHASES
        counters = st.none() | st.integers(1, 10**10)
        changes = {
            "trained": draw(st.sampled_from([0, 768, 11_520])),
            "passes": draw(st.sampled_from([1, 3])),
            "scores": noisy(levels.setdefault(name, draw(GRID)))
            if draw(st.booleans()) or name in levels
            else {metric: [draw(GRID) for _ in range(documents)] for metric in METRICS},
            "seconds": {phase: draw(st.sampled_from([0.0, 1.0, 2.5, 40.0])) for phase in booked},
            "tokens": {"training": draw(st.sampled_from([0, 600, 6000]))},
            "memory_bytes": {counter: draw(counters) for counter in PEAKS.values()},
            "adapter_bytes": draw(st.none() | st.integers(1, 10**9)),
            **({} if draw(st.booleans()) else {"epochs": []}),
            **({} if draw(st.booleans()) else {"parameters": None}),
        }
        return run(name, seed=seed, control=control, **changes)

    results = {name: [one(name, 42 + n, False) for n in range(seeds)] for name in names}
    results |= {name: [one(name, 42, True)] for name in controls}
    died = [Death("omega", 42, "training", "out of memory")] * draw(st.integers(0, 1))
    trials = {name: draw(st.integers(1, 3)) for name in names if draw(st.booleans())}
    variance = SeedVariance(draw(st.sampled_from([0.0, 0.001, 0.02])), 0.001, 9, documents, "calibration")
    lent = {name: dict.fromkeys(METRICS, variance) for name in names if draw(st.booleans())}
    return compare(settings(seeds=tuple(range(42, 42 + seeds))), results, died, trials, lent)


class Reader:
    """Reads a sentence and looks every word of it up in the runs."""

    def __init__(self, table):
        self.table, self.known = table, {}
        self.runs = {row.name: row.runs for row in table.methods}
        self.controls = {row.name: row.runs for row in table.controls}
        self.documents, self.seeds = len(table.document_ids), len(table.settings.seeds)

    def mean(self, name, metric):
        values = [value for one in {**self.runs, **self.controls}[name] for value in one.scores[LABELS[metric]]]
        return round(100 * sum(values) / len(values), 2)

    def top(self, metric):
        means = {name: self.mean(name, metric) for name in self.runs}
        return {name for name, value in means.items() if value == max(means.values())}

    def verdict(self, *asked):
        if asked not in self.known:
            self.known[asked] = self.judge(*asked)
        return self.known[asked]

    def judge(self, first, second, metric):
        """1, 0 or -1 where `first` is above, not told from, or below `second`; None without a test of the seeds."""
        others = self.controls if second in self.controls else self.runs
        family = [(x, y) for x in self.runs for y in others if x != y and (others is self.controls or x < y)]
        found = {pair: self.contrast(*pair, LABELS[metric]) for pair in family}
        pair = (first, second) if (first, second) in found else (second, first)
        if found[pair] is None:
            return None
        # Holm: rejected where every p up to its rank is below alpha over those that are left.
        ps = sorted(one[1] if one else self.documents_only(*couple, LABELS[metric]) for couple, one in found.items())
        rank = ps.index(found[pair][1])
        rejected = all(p * (len(ps) - n) < 0.05 for n, p in enumerate(ps[: rank + 1]))
        return rejected * math.copysign(1, found[pair][0]) * (1 if pair[0] == first else -1)

    def scores(self, name, metric):
        runs = {**self.runs, **self.controls}[name]
        return np.array([one.scores[metric] for one in runs])

    def documents_only(self, first, second, metric):
        d = self.scores(first, metric).mean(axis=0) - self.scores(second, metric).mean(axis=0)
        return 1.0 if np.ptp(d) < 1e-9 else stats.ttest_1samp(d, 0).pvalue

    def contrast(self, first, second, metric):
        """Difference and p by the model; None where the noise is not known."""
        sides = [self.scores(name, metric) for name in (first, second) if name not in self.controls]
        count = sides[0].shape[1]
        d = self.scores(first, metric).mean(axis=0) - self.scores(second, metric).mean(axis=0)
        df, weight = sum(len(side) - 1 for side in sides), sum(1 / len(side) for side in sides) / count
        lent = [self.table.rows[[row.name for row in self.table.rows].index(name)].borrowed.get(metric)
                for name in (first, second) if name not in self.controls]  # fmt: skip
        if count < 2 or (df == 0 and None in lent):
            return None
        if df:
            ms_seed = sum(count * side.mean(axis=1).var(ddof=1) * (len(side) - 1) for side in sides) / df
            rest = [side - side.mean(axis=1, keepdims=True) - side.mean(axis=0) + side.mean() for side in sides]
            ms_res = sum((one**2).sum() for one in rest) / (df * (count - 1))
            df_res = df * (count - 1)
        else:
            assert lent[0].documents == count
            ms_seed, ms_res, df, df_res = lent[0].ms_seed, lent[0].ms_res, lent[0].df, lent[0].df * (count - 1)
        v_doc, s, r = d.var(ddof=1) / count, ms_seed * weight, ms_res * weight
        v = v_doc + max(0, s - r)
        if v < 1e-20 and s < 1e-20:  # nothing to divide by
            if abs(d.mean()) < 1e-12:
                return 0.0, 1.0
            return (d.mean(), 2.0 ** (1 - count)) if ms_seed < 1e-20 and ms_res < 1e-20 else None
        doubt = v_doc**2 / (count - 1) + (s**2 / df + r**2 / df_res if s > r else 0)
        free = df if v <= s else max(df, v**2 / doubt)
        return d.mean(), 2 * stats.t.sf(abs(d.mean()) / math.sqrt(max(v, s)), free)

    def figures(self, what):
        """The figure by method name, only where it was measured."""
        found = {name: self.figure(what, runs) for name, runs in self.runs.items()}
        return {name: value for name, value in found.items() if value is not None}

    def figure(self, what, runs):
        if what in ("training", "whole", "epoch"):
            phases = PHASES if what == "whole" else ("training",)
            if any(phase not in one.seconds for one in runs for phase in phases):
                return None
            value = sum(one.seconds[phase] for one in runs for phase in phases) / len(runs)
            return value if what != "epoch" else value / self.passes(runs) if self.passes(runs) else None
        if what == "rate":
            tokens, spent = (sum(getattr(one, of).get("training", 0) for one in runs) for of in ("tokens", "seconds"))
            return tokens / spent if tokens and spent else None
        if what == "trainable":
            return runs[0].parameters and runs[0].parameters["requires_grad"]["trainable"]
        values = [one.adapter_bytes if what == "adapter" else one.memory_bytes.get(what) for one in runs]
        return max((value for value in values if value is not None), default=None)

    @staticmethod
    def passes(runs):
        return max((point["epoch"] for one in runs for point in one.epochs), default=0)


def names(text):
    return [name for name in re.split(r", | and ", text) if name]


def pairs(text):
    """`a 1,024.5, b 2.00 kB` as [("a", 1024.5), ("b", 2000.0)]."""
    found = re.findall(r"(\w+) ([\d.,e-]*[\d])(?: (B|kB|MB|GB))?(?:, |$)", text)
    return [(name, float(number.replace(",", "")) * UNITS[unit]) for name, number, unit in found]


def ranked(reader, what, text, descending=False):
    """The ranking names all that was measured and nothing else, in order, with its figures."""
    true, said = reader.figures(what), pairs(text)
    assert {name for name, _ in said} == set(true) and len(said) == len(true) > 0
    assert [true[name] for name, _ in said] == sorted(true.values(), reverse=descending)
    assert all(value == pytest.approx(true[name], rel=0.05, abs=0.051) for name, value in said)


def highest(r, metric, value, best, rest):
    assert {*names(best)} == r.top(metric) and all(r.mean(name, metric) == float(value) for name in names(best))
    assert [*pairs(rest)] == [(name, r.mean(name, metric)) for name, _ in pairs(rest)]
    values = [value for _, value in pairs(rest)]
    assert values == sorted(values, reverse=True) and all(v < float(value) for v in values)
    assert {*names(best), *(name for name, _ in pairs(rest))} == set(r.runs)


def only(r, name):
    assert list(r.runs) == [name]


def same(r, metric, who, value):
    assert set(names(who)) == set(r.runs) and {r.mean(name, metric) for name in r.runs} == {float(value)}


def above(r, name, others, metric):
    ranks = {other: r.verdict(name, other, metric) for other in r.runs if other != name}
    assert {other for other, rank in ranks.items() if rank == 1} == set(names(others)) != set()


def alike(r, who, metric):
    group = names(who)
    assert len(group) > 1 and {r.verdict(x, y, metric) for x in group for y in group if x != y} == {0}
    for other in set(r.runs) - set(group):  # the largest such group
        assert any(r.verdict(other, name, metric) for name in group)


def controls(r, name, words, text):
    rank = {"is above": 1, "is not distinguishable from": 0, "is below": -1}[words]
    said = {control: labels.split(", ") for control, labels in re.findall(r"(\w+) \(([^)]+)\)", text)}
    true = {c: [m for m in LABELS if r.verdict(name, c, m) == rank] for c in r.controls}
    assert said == {control: labels for control, labels in true.items() if labels} != {}


def above_controls(r, name):
    assert r.controls and {r.verdict(name, c, m) for c in r.controls for m in LABELS} == {1}


def one_seed(r, who, claim):
    assert set(names(who)) == {row.name for row in r.table.methods if not row.borrowed}
    assert r.seeds == 1 and bool(claim) == (len(r.runs) > 1)


def lent(r, who, source):
    assert set(names(who)) == {row.name for row in r.table.methods if row.borrowed}
    assert r.seeds == 1 and source == "calibration"


def best(r, text):
    for part in text.split("; "):
        metric, _, who = part.partition(" ")
        top = next(row.name for row in sorted(r.table.methods, key=lambda row: -row.rouge[LABELS[metric]].mean))
        assert set(names(who)) == {name for name in r.runs if name == top or r.verdict(top, name, metric) == 0}
        assert all(r.verdict(x, y, metric) is not None for x in r.runs for y in r.runs if x != y)


def untested(r):
    assert all(any(r.verdict(x, y, m) is None for x in r.runs for y in r.runs if x != y) for m in LABELS)


def reached(r, name, text):
    said = {control: set(labels.split(", ")) for control, labels in re.findall(r"(\w+) \(([^)]+)\)", text)}
    above = {c: {m for m in LABELS if r.mean(c, m) >= r.mean(name, m)} for c in r.controls}
    assert said == {control: labels for control, labels in above.items() if labels} != {}


def unreached(r, name):
    assert r.controls and all(r.mean(name, m) > r.mean(c, m) for c in r.controls for m in LABELS)


def ratio(r, value):
    spent = [seconds for seconds in r.figures("training").values() if seconds]
    assert float(value) == pytest.approx(max(spent) / min(spent), abs=0.006)


def epochs(r, text):
    assert dict(pairs(text)) == {name: r.passes(runs) for name, runs in r.runs.items() if r.passes(runs)}


def evaluated(r, text):
    for part in text.split("; "):
        name, _, rest = part.partition(" ")
        kept = [next(point for point in one.epochs if point["best"]) for one in r.runs[name] if one.epochs]
        said = re.findall(r"(\d) of (\d) \(([\d.]+) nats per label token\)", rest)
        total = str(r.passes(r.runs[name]))
        assert said == [(str(point["epoch"]), total, f"{point['validation_loss']:.3f}") for point in kept] != []


def trains(r, name, trained, total, percent, added):
    counts = r.runs[name][0].parameters["requires_grad"]
    assert (int(trained.replace(",", "")), int(total.replace(",", ""))) == (counts["trainable"], counts["total"])
    assert float(percent) == pytest.approx(100 * counts["trainable"] / counts["total"], rel=0.01)
    assert int((added or "0").replace(",", "")) == counts["added"]


def tied(r, name, trained, total):
    counts = r.runs[name][0].parameters["requires_grad"]
    assert int(total.replace(",", "")) == counts["total"] + counts["tied"]
    assert int(trained.replace(",", "")) == counts["trainable"]


def tops(r, *best):
    assert [set(names(who)) for who in best] == [r.top(metric) for metric in LABELS]


def fewest(r, what, who):
    true = r.figures(what)
    assert all(true[name] == pytest.approx(min(true.values()), rel=0.005) for name in names(who))
    assert {name for name, value in true.items() if value == min(true.values())} <= set(names(who)) < set(true)


def tuned(r, text):
    assert dict(pairs(text)) == {row.name: row.trials for row in r.table.methods if row.trials is not None}
    assert len({value for _, value in pairs(text)}) > 1


def holds(condition):
    """A check of a sentence without figures."""

    def check(reader):
        assert condition(reader)

    return check


W, M = r"(\w+)", r"(ROUGE-.)"
SENTENCES = [
    (rf"{M}: the highest mean is (\S+), by (.+); then (.+)\.", highest),
    (rf"{M}: (.+) have the same mean, (\S+)\.", same),
    (rf"{M}: {W} has the mean (\S+)\.", same),
    (rf"{W} is above ([^(]+) on {M}\.", above),
    (rf"([^:]+) are not distinguishable on {M}\.", alike),
    (rf"{W} (is above|is not distinguishable from|is below) (.+\))\.", controls),
    (rf"{W} is above every control on every metric\.", above_controls),
    (r"One test document gives no interval, so no claim is made .+", holds(lambda r: r.documents == 1)),
    (r"(.+) ran with one seed and the variance .+: documents only(, so .+)?\. For more seeds, type .+", one_seed),
    (r"(.+) ran with one seed; the variance between seeds is that of the (.+)\.", lent),
    (r"The intervals and tests cover another draw of documents and of seeds\.", holds(lambda r: r.seeds > 1)),
    (rf"Controls with a mean at or above that of {W}: (.+)\.", reached),
    (rf"The mean of {W} is above that of every control on every metric\.", unreached),
    (r"No trained method finished, so .+", holds(lambda r: not r.runs)),
    (r"Seconds of training in a run, lowest first: (.+)\.", lambda r, text: ranked(r, "training", text)),
    (r"The highest is (\S+) times the lowest\.", ratio),
    (r"They were trained for different numbers of epochs: (.+)\.", epochs),
    (r"Seconds of training in an epoch, lowest first: (.+)\.", lambda r, text: ranked(r, "epoch", text)),
    (r"Training tokens per second, highest first: (.+)\.", lambda r, text: ranked(r, "rate", text, descending=True)),
    (r"Seconds of a whole run, lowest first: (.+)\.", lambda r, text: ranked(r, "whole", text)),
    (r"Epoch with the lowest validation loss, which is the one evaluated: (.+)\.", evaluated),
    (r"(Peak \w+ memory) above .+ lowest first: (.+)\.", lambda r, label, text: ranked(r, PEAKS[label], text)),
    (rf"{W} trains (\S+) of (\S+) parameters \((\S+) %\)\.(?: It adds (\S+) to the base model\.)?", trains),
    (rf"With tied tensors counted at each of their names {W} trains (\S+) of (\S+)\.", tied),
    (r"Saved on disk, lowest first: (.+)\.", lambda r, text: ranked(r, "adapter", text)),
    (r"Highest means: ROUGE-1 (.+); ROUGE-2 (.+); ROUGE-L (.+)\.", tops),
    (r"Fewest seconds of training: (.+)\.", lambda r, who: fewest(r, "training", who)),
    (r"Fewest trained parameters: (.+)\.", lambda r, who: fewest(r, "trainable", who)),
    (r"Lowest (peak \w+ memory): (.+)\.", lambda r, label, who: fewest(r, PEAKS[label.capitalize()], who)),
    (r"The best, with all that cannot be told from it: (.+)\.", best),
    (r"No method is called better, because .+", untested),
    (rf"{W} is the only trained method that finished, .+", only),
    (r"The methods were not tuned alike; settings tried on validation: (.+)\.", tuned),
    (r"Dead: omega, seed 42, in training: out of memory\.", holds(lambda r: r.table.deaths)),
    (r"No figure was measured\.", holds(lambda r: True)),
]  # fmt: skip


@examples(deadline=None)
@given(tables())
def test_every_sentence_follows_from_the_runs(table):
    reader = Reader(table)
    for sentences in analysis.sections(table, str).values():
        assert sentences
        for sentence in sentences:
            found = [(match, check) for form, check in SENTENCES if (match := re.fullmatch(form, sentence))]
            assert len(found) == 1, sentence
            match, check = found[0]
            check(reader, *match.groups())


def test_what_patience_saved_is_the_epochs_that_were_left_out_at_the_runs_own_speed():
    patient = [run("lora", passes=4, seed=1), run("lora", passes=5, seed=2)]
    for one, seconds in zip(patient, (40.0, 60.0), strict=True):
        one.spec["training"] |= {"epochs": 9, "patience": 2}
        one.seconds["training"] = seconds
    [row] = compare(settings(), {"lora": patient}).methods
    said = analysis.ended_early(row, str)
    assert said == (
        "lora after 4, 5 of 9 epochs (patience 2), which saved about 49.0 s of training a run at its own speed"
    )  # (5 x 40 / 4 + 4 x 60 / 5) / 2
    whole = run("lora", passes=9)
    whole.spec["training"] |= {"epochs": 9, "patience": 2}
    [row] = compare(settings(), {"lora": [whole]}).methods
    assert analysis.ended_early(row, str) == ""
