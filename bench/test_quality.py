"""Quality: ROUGE at or above its floor, better than rows that learned nothing, not worse than the baseline."""

import pytest

from bakeoff.metrics.rouge import METRICS
from bakeoff.stats.intervals import better, mean_over_seeds

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("metric", METRICS)
def test_rouge_reaches_its_floor(runs, floors, metric):
    if metric not in floors:
        pytest.skip(f"bench/thresholds.toml has no floor of {metric} for {runs[0].spec['method']}")
    scores = mean_over_seeds([run.scores[metric] for run in runs])
    assert 100 * scores.mean() >= floors[metric]


@pytest.mark.parametrize("name", ["zero-shot", "shuffled"])
def test_better_than_a_control_on_the_same_documents(runs, floors, control, name):
    other = control(name)
    assert other.document_ids == runs[0].document_ids
    scores = mean_over_seeds([run.scores["rougeL"] for run in runs])
    assert better(scores, other.scores["rougeL"]) < 0.05


def test_a_control_is_scored_on_every_document(control_run):
    assert all(len(control_run.scores[metric]) == len(control_run.document_ids) for metric in METRICS)


def test_gate(gate_verdict, record_property):
    for name, figure in gate_verdict.figures.items():
        record_property(name, figure)
    if gate_verdict.failure:
        pytest.fail(gate_verdict.failure, pytrace=False)
