"""Metrics beside ROUGE in a comparison: intervals, tests and verdicts, in the report and in results.json."""

import dataclasses
import json
import re

import pytest
from factories import predictions, run, settings

from bakeoff.config.schema import ScoringSettings
from bakeoff.metrics.rouge import METRICS
from bakeoff.report import document, results_json
from bakeoff.report.comparison import MANY, compare
from bakeoff.scoring.api import Beside, Facts
from bakeoff.stats.contrasts import SeedVariance, contrast, mean
from bakeoff.stats.intervals import interval, wilson

DOCUMENTS = 20
SHARE = Facts("repeats", "repeats, %", "lower", (0.0, 1.0), "mine:1")
LENGTH = Facts("length", "length", "", (0.0, float("inf")), "words")
EMPTY = Facts("empty", "empty summaries, %", "lower", (0.0, 1.0), "no text", binary=True)
CHRF = Facts("chrf", "chrF++", "higher", (0.0, 1.0), "nc:6")


def scores(level, seed=0):
    return [min(1.0, max(0.0, level + 0.01 * ((7 * n + 3 * seed) % 11) - 0.05)) for n in range(DOCUMENTS)]


def made(*verdicts, seeds=(1, 2), levels=(("a", 0.2), ("b", 0.5), ("c", 0.51)), undefined=(), spreads=None):
    """Methods whose mean of `repeats` is given, and a control; `undefined` documents have no value for method `b`."""
    results = {name: [run(name, level, seed=seed, documents=DOCUMENTS) for seed in seeds] for name, level in levels}
    results["lead-1"] = [run("lead-1", 0.3, control=True, documents=DOCUMENTS)]
    values = {}
    for name, runs in results.items():
        level = dict(levels).get(name, 0.4)
        rows = [scores(level, seed) for seed in range(len(runs))]
        if name == "b":
            rows = [[None if n in undefined else value for n, value in enumerate(row)] for row in rows]
        empty = [[float(n < 5 and name == "a") for n in range(DOCUMENTS)] for _ in runs]
        nothing = [[None] * DOCUMENTS for _ in runs]
        values[name] = {"repeats": rows, "length": [[3 * v if v else v for v in row] for row in rows],
                        "empty": empty, "chrf": nothing}  # fmt: skip
    facts = {one.name: one for one in (SHARE, LENGTH, EMPTY, CHRF)}
    scoring = ScoringSettings(verdicts=tuple(verdicts or METRICS))
    return compare(settings(seeds=seeds, scoring=scoring), results, spreads=spreads, beside=Beside(facts, values))


def page(comparison):
    return document.render(comparison, {}, [])


def test_a_metric_has_the_interval_and_the_tests_of_rouge_and_no_verdict():
    comparison = made()
    row = comparison.methods[0]
    assert row.metrics["repeats"].mean == pytest.approx(interval(row.values["repeats"]).mean)
    [pair] = [p for p in comparison.other_pairs if (p.first, p.second, p.metric) == ("a", "b", "repeats")]
    assert pair.contrast == contrast(row.values["repeats"], comparison.methods[1].values["repeats"])
    assert {p.metric for p in comparison.pairs} == set(METRICS) and comparison.alike("repeats") is None


def test_documents_without_a_value_take_part_in_no_mean_and_no_pair():
    comparison = made(undefined=(0, 5))
    row = comparison.methods[1]
    kept = [[value for value in line if value is not None] for line in row.values["repeats"]]
    assert row.metrics["repeats"].mean == pytest.approx(interval(kept).mean) and len(kept[0]) == DOCUMENTS - 2
    [pair] = [p for p in comparison.other_pairs if (p.first, p.second, p.metric) == ("a", "b", "repeats")]
    assert pair.contrast.documents == pair.wins + pair.ties + pair.losses == DOCUMENTS - 2
    found = json.loads(results_json.render(results_json.content(comparison)))["methods"]["b"]
    assert found["scores"]["repeats"][0][0] is None and found["metrics"]["repeats"]["mean"] is not None


def test_with_one_seed_a_mean_takes_the_variance_between_seeds_from_elsewhere_as_its_pairs_do():
    elsewhere = SeedVariance(0.02, 0.001, 9, DOCUMENTS, "baseline")
    bare, known = made(seeds=(1,)), made(seeds=(1,), spreads={"a": {"repeats": elsewhere}})
    found, alone = known.methods[0].metrics["repeats"], bare.methods[0].metrics["repeats"]
    assert found == mean(known.methods[0].values["repeats"], spread=elsewhere)
    assert found.mean == alone.mean and found.high - found.low > 1.2 * (alone.high - alone.low)
    assert known.methods[1].metrics["repeats"] == bare.methods[1].metrics["repeats"]


def test_what_no_document_has_is_null_and_has_no_column():
    comparison = made()
    found = json.loads(results_json.render(results_json.content(comparison)))
    assert found["methods"]["a"]["metrics"]["chrf"] == {"mean": None, "low": None, "high": None}
    assert "chrF++ x 100" not in page(comparison)
    assert found["metrics"]["length"]["range"] == [0, None] and found["metrics"]["repeats"]["verdict"] is False
    assert set(found["methods"]["a"]["rouge"]) == set(METRICS)


def test_rates_have_wilsons_interval_and_are_said_in_the_conclusion():
    comparison = made()
    assert comparison.methods[0].metrics["empty"] == wilson(0.25, DOCUMENTS)
    assert comparison.methods[1].metrics["empty"] == wilson(0.0, DOCUMENTS)
    said = page(comparison).partition("## Comparison")[0]
    assert "- Empty summaries, highest first: a 25 %." in said and "limit of" not in said


def test_of_a_metric_that_carries_verdicts_the_lower_value_is_the_better_one():
    comparison = made("repeats")
    assert comparison.highest("repeats") == ("a",) and comparison.best("repeats") == ("a",)
    assert {p.metric for p in comparison.pairs} == {"repeats"}
    assert {p.metric for p in comparison.other_pairs} == {*METRICS, "length", "empty"}
    text = page(comparison)
    assert "- The best, with all that cannot be told from it: repeats, % a." in text
    assert re.search(r"- repeats, %: the lowest mean is \d+\.\d\d, by a; then b \d+\.\d\d, c \d+\.\d\d\.", text)
    assert "a is below b and c on repeats, %." in text
    main = text.partition("## Samples")[0]
    assert re.search(r"^\| repeats, % .*\*\*[\d.]+\*\* \[[\d., ]+\] a ", main, re.MULTILINE)
    assert "ROUGE-1 F1" not in main and "ROUGE-1 F1 x 100" in text


def test_a_verdict_metric_that_a_method_lacks_gives_none():
    comparison = made("chrf", "rougeL")
    assert comparison.verdicts == ("rougeL",)


def test_with_many_methods_metrics_without_verdicts_are_compared_with_the_best_method_alone():
    levels = [(f"m{n}", 0.1 + 0.02 * n) for n in range(MANY + 1)]
    many, few = made(levels=levels), made(levels=levels[:MANY])
    best = max(many.methods, key=lambda row: row.interval(many.main).mean).name
    for comparison, count in ((many, MANY), (few, MANY * (MANY - 1) // 2)):
        metrics = {pair.metric for pair in comparison.other_pairs}
        assert metrics and len(comparison.other_pairs) == count * len(metrics)
    assert all(best in (pair.first, pair.second) for pair in many.other_pairs)
    assert "stand in results.json" in page(many) and "stand in results.json" not in page(few)


def test_a_metric_that_failed_is_named_in_the_report_and_the_rest_is_there():
    comparison = dataclasses.replace(made(), failures=("metric 'mine': KeyError: 'x'",))
    text = document.render(comparison, {"a": predictions(comparison.methods[0].runs[0])}, [])
    assert "metric 'mine': KeyError: 'x'." in text and "repeats, %" in text
