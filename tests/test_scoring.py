"""ROUGE per document."""

import pytest
from rouge_score import rouge_scorer

from bakeoff.scoring import rouge, score, signature


def test_scores_are_rouge_scores_own():
    pairs = [("the cat sat on the mat", "a cat was sitting on the mat"), ("running dogs", "dogs run"), ("x", "y")]
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    ours = score([summary for summary, _ in pairs], [reference for _, reference in pairs])
    for number, (summary, reference) in enumerate(pairs):
        expected = theirs.score(reference, summary)
        assert {metric: values[number] for metric, values in ours.items()} == {
            m: s.fmeasure for m, s in expected.items()
        }


def test_the_stemmer_is_on():
    assert rouge("running", "runs")["rouge1"] == 1.0


@pytest.mark.parametrize("summary", ["", "   ", "!?"])
def test_an_empty_summary_scores_zero(summary):
    assert set(rouge(summary, "a reference").values()) == {0.0}


def test_a_missing_summary_is_an_error_and_not_a_shorter_list():
    with pytest.raises(ValueError):
        score(["a"], ["a", "b"])


def test_the_signature_names_every_version_that_matters():
    from importlib.metadata import version

    assert f"rouge-score:{version('rouge-score')}" in signature()
    assert f"nltk:{version('nltk')}" in signature()
    assert "stemmer:yes" in signature()
