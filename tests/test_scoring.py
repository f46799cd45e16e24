"""ROUGE per document."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from bakeoff import tasks
from bakeoff.results import METRICS
from bakeoff.scoring import rouge, score, signature
from bakeoff.settings import TaskSettings

THEIRS = rouge_scorer.RougeScorer(list(METRICS), use_stemmer=True)
WORDS = [
    "runs",
    "running",
    "the",
    "caf\u00e9",
    "\u0e01\u0e32",
    "\u0130x",
    "a1",
    "1",
    "-",
    "\u212a",
    "\n",
    "dying",
    "x_y",
    "",
]


def theirs(summary, reference):
    return {metric: found.fmeasure for metric, found in THEIRS.score(reference, summary).items()}


def test_scores_are_rouge_scores_own():
    pairs = [("the cat sat on the mat", "a cat was sitting on the mat"), ("running dogs", "dogs run"), ("x", "y")]
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    ours = score([summary for summary, _ in pairs], [reference for _, reference in pairs])
    for number, (summary, reference) in enumerate(pairs):
        expected = theirs.score(reference, summary)
        assert {metric: values[number] for metric, values in ours.items()} == {
            m: s.fmeasure for m, s in expected.items()
        }


def test_thousands_of_random_pairs_score_as_rouge_score_has_it():
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(40))) for _ in range(4000)]
    for summary, reference in zip(texts[:2000], texts[2000:], strict=True):
        assert rouge(summary, reference) == theirs(summary, reference), (summary, reference)


def test_real_pairs_score_as_rouge_score_has_it():
    for paper in tasks.load(TaskSettings(name="aclsum/all", train=100, validation=1, test=1)).examples.train:
        assert rouge(paper.document, paper.summary) == theirs(paper.document, paper.summary)


@given(st.text(), st.text())
@example("\u0130\u0131 \ufb01ne", "i\u0307 fine")
def test_any_two_texts_score_as_rouge_score_has_it(summary, reference):
    assert rouge(summary, reference) == theirs(summary, reference)


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
