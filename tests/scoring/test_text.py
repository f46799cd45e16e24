"""Metrics of texts against sacrebleu, against the paper's own words, and by their properties."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import CHRF

from bakeoff.config.schema import ScoringSettings
from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring import text
from bakeoff.scoring.registry import named

PAIRS = [
    ("The cat sat on the mat.", ["A cat was sitting on the mat.", "The cat sat."]),
    ("", ["Nothing was written."]),
    ("Модель пишет резюме.", ["Модель написала краткое резюме."]),
    ("模型写摘要", ["模型写了一个摘要"]),
]
WORDS = st.lists(st.sampled_from(list("abcde")), max_size=14)


def metric(name, **scoring):
    return named(name, ScoringSettings(**scoring), "test")


def value(name, summary, references=("x",), document="", **scoring):
    [found] = metric(name, **scoring).score([summary], [list(references)], [document])
    return found


def test_chrf_is_sacrebleus_with_the_best_reference_and_its_signature():
    one = metric("chrf")
    ours = one.score([summary for summary, _ in PAIRS], [known for _, known in PAIRS], [""] * len(PAIRS))
    theirs = CHRF(word_order=2)
    for found, (summary, known) in zip(ours, PAIRS, strict=True):
        assert found == max(theirs.corpus_score([summary], [[text]]).score for text in known) / 100
    assert one.signature.startswith("nrefs:var|case:mixed|") and "|nw:2|" in one.signature
    single = metric("chrf")
    single.score(["a"], [["b"]], [""])
    assert single.signature.startswith("nrefs:1|")


def test_chrf_takes_the_mean_of_references_where_rouge_does():
    [both] = metric("chrf", references="mean").score(
        [PAIRS[0][0]], [PAIRS[0][1]], [""])  # fmt: skip
    assert both == pytest.approx(sum(value("chrf", PAIRS[0][0], [one]) for one in PAIRS[0][1]) / 2)


def fragments_of_the_paper(article, summary):
    """Grusky et al. 2018, figure 3, word for word: F(A, S)."""
    found, i = [], 0
    while i < len(summary):
        best, j = [], 0
        while j < len(article):
            if summary[i] == article[j]:
                k, m = i, j
                while k < len(summary) and m < len(article) and summary[k] == article[m]:
                    k, m = k + 1, m + 1
                if len(best) < k - i:
                    best = summary[i:k]
                j = m
            else:
                j += 1
        i += max(len(best), 1)
        found.append(best)
    return [len(one) for one in found if one]


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS)
def test_copied_words_are_those_of_the_papers_fragments(document, summary):
    ours, theirs = text.fragments(summary, document), fragments_of_the_paper(document, summary)
    # The paper's search goes on behind a match, so it may miss a longer one that begins inside of it.
    assert sum(ours) == sum(theirs)
    naive, at = [], 0
    while at < len(summary):
        lengths = [n for n in range(1, len(summary) - at + 1)
                   if any(document[p : p + n] == summary[at : at + n] for p in range(len(document)))]  # fmt: skip
        naive += lengths[-1:]
        at += max(lengths, default=1)
    assert ours == naive
    found = [value(name, " ".join(summary), document=" ".join(document)) for name in ("coverage", "density")]
    if summary and document:
        assert found == [sum(naive) / len(summary), sum(n * n for n in naive) / len(summary)]
        assert found[0] == sum(word in document for word in summary) / len(summary)  # every shared word is copied
    else:
        assert found == [None, None]


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS)
def test_a_summary_is_new_by_the_bigrams_that_its_document_lacks(document, summary):
    found = value("new_bigrams", " ".join(summary), document=" ".join(document))
    pairs = set(pairwise(summary))
    held = set(pairwise(document))
    assert found == (sum(pair not in held for pair in pairs) / len(pairs) if pairs and document else None)


def test_repetition_length_and_emptiness_are_counted():
    assert value("repeated_trigrams", "a b c a b c") == 1 / 4
    assert value("repeated_trigrams", "a b c d") == 0 and value("repeated_trigrams", "a b") is None
    assert value("length_ratio", "one two three", ["one two", "one two three four"]) == 1
    assert value("length_ratio", "one", ["..."]) is None
    assert [value("empty", one) for one in ("", " \n\u3000", "x", "。")] == [1, 1, 0, 0]


def test_a_copied_sentence_is_all_copied_in_every_script():
    for sentence in ("Die Größe der Bäume wächst.", "模型写了一个摘要。", "โมเดลเขียนสรุป"):
        scored = [value(name, sentence, document=sentence, tokenizer="unicode") for name in ("coverage", "new_bigrams")]
        assert scored == [1, 0]


def test_cut_is_what_the_run_noted_and_nothing_where_it_noted_nothing():
    rows = [Prediction("a", "", "", "x", cut=cut) for cut in (True, False, None)]
    assert metric("cut").of(rows) == [1.0, 0.0, None]
