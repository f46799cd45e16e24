"""ROUGE per document, in every script, with several references, lines and aspects."""

import random
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from bakeoff.config.schema import ScoringSettings, TaskSettings
from bakeoff.data import tasks
from bakeoff.metrics.rouge import FALLEN, SCORED, Prediction, Scorer, rouge, same_scores

THEIRS = rouge_scorer.RougeScorer(list(SCORED), use_stemmer=True)
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
UNICODE = Scorer(ScoringSettings(tokenizer="unicode"))
MEAN = Scorer(ScoringSettings(references="mean"))


def theirs(summary, reference):
    return {metric: found.fmeasure for metric, found in THEIRS.score(reference, summary).items()}


def line(summary, *references, id="a", **more):
    """A prediction."""
    return Prediction(id, "Document.", references[0], summary, references, **more)


def test_scores_are_rouge_scores_own():
    pairs = [("the cat sat on the mat", "a cat was sitting on the mat"), ("running dogs", "dogs run"), ("x", "y")]
    ids, ours = Scorer().score([line(*pair, id=str(number)) for number, pair in enumerate(pairs)])
    assert ids == ["0", "1", "2"]
    for number, pair in enumerate(pairs):
        assert {metric: values[number] for metric, values in ours.items()} == theirs(*pair)


def test_thousands_of_random_pairs_score_as_rouge_score_has_it():
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(40))) for _ in range(4000)]
    for summary, reference in zip(texts[:2000], texts[2000:], strict=True):
        assert rouge(summary, reference) == theirs(summary, reference), (summary, reference)


def test_texts_of_many_lines_score_as_rouge_score_has_it():
    draw = random.Random(1)
    for _ in range(500):
        pair = ["\n".join(" ".join(draw.choices("abcdefg", k=draw.randrange(9))) for _ in range(5)) for _ in range(2)]
        assert rouge(*pair) == theirs(*pair), pair


def test_swapped_lines_change_rouge_l_and_not_rouge_lsum():
    found = rouge("three here\none line\ntwo lines", "one line\ntwo lines\nthree here")
    assert found["rougeLsum"] == 1.0 > found["rougeL"]


def test_real_pairs_score_as_rouge_score_has_it():
    for paper in tasks.load(TaskSettings(name="aclsum/all", train=30, validation=1, test=1)).examples.train:
        assert rouge(paper.document, paper.summary) == theirs(paper.document, paper.summary)


@given(st.text(), st.text())
@example("\u0130\u0131 \ufb01ne", "i\u0307 fine")
def test_any_two_texts_score_as_rouge_score_has_it(summary, reference):
    assert rouge(summary, reference) == theirs(summary, reference)


def test_the_stemmer_is_on():
    assert rouge("running", "runs")["rouge1"] == 1.0


@pytest.mark.parametrize("summary", ["", "   ", "!?", "\n"])
def test_an_empty_summary_scores_zero(summary):
    assert set(rouge(summary, "a reference").values()) == {0.0}
    assert set(UNICODE.rouge(summary, ["a reference"]).values()) == {0.0}


# References and aspects


def test_the_best_of_several_references_is_rouge_scores_own_choice():
    draw = random.Random(2)
    for _ in range(300):
        summary, *references = (" ".join(draw.choices(WORDS, k=draw.randrange(9))) for _ in range(4))
        expected = {metric: found.fmeasure for metric, found in THEIRS.score_multi(references, summary).items()}
        assert Scorer().rouge(summary, references) == expected


def test_the_mean_over_references_is_that_of_the_single_scores():
    found = MEAN.rouge("one two", ["one two", "one", "three"])
    single = [rouge("one two", text) for text in ("one two", "one", "three")]
    assert found == {metric: pytest.approx(sum(row[metric] for row in single) / 3) for metric in SCORED}


def test_aspects_of_a_document_are_one_score_their_mean():
    aspects = [line("one", text, aspect=aspect) for aspect, text in (("A", "one"), ("B", "two"), ("C", "one"))]
    ids, scores = Scorer().score([*aspects, line("one", "one", id="b")])
    assert ids == ["a", "b"] and scores["rouge1"] == [pytest.approx(2 / 3), 1.0]


# Scripts


@pytest.mark.parametrize(
    "text",
    [
        "这篇论文提出了一种新的方法。",
        "Эта статья предлагает новый метод.",
        "تقترح هذه الورقة طريقة جديدة",
        "यह एक नया तरीका है।",
        "この論文は新しい方法を提案する。",
        "이 논문은 새로운 방법을 제안한다.",
        "วิทยานิพนธ์นี้เสนอวิธีใหม่",
        "ဤစာတမ်းသည်",
        "ឯកសារនេះ",
        "ኣማርኛ ነው።",
        "Άλφα",
        "სტატია",
        "հոդված",
        "บทความ 5",
        "ﷺ",
        "𝕬 𝔅",
    ],
)
def test_equal_texts_score_a_hundred_in_every_script(text):
    for form in ("NFC", "NFD", "NFKC"):
        assert UNICODE.rouge(unicodedata.normalize(form, text), [text])["rouge1"] == 1.0
    assert UNICODE.rouge(text, ["x"])["rouge1"] == 0.0


@given(st.text(alphabet=st.characters(categories=("L", "M", "N")), min_size=1))
def test_any_letters_equal_themselves(text):
    tokens = UNICODE.tokens(text)
    assert UNICODE.rouge(text, [text])["rouge1"] == (1.0 if tokens else 0.0)
    assert tokens or not any(unicodedata.category(c)[0] in "LN" for c in text)


def test_an_accent_makes_another_word_and_its_form_does_not():
    assert UNICODE.rouge("caf", ["café"])["rouge1"] == 0.0
    assert UNICODE.rouge("CAFE\u0301", ["café"])["rouge1"] == 1.0
    assert UNICODE.rouge("running", ["runs"])["rouge1"] == 0.0  # no stemmer


def test_chinese_is_compared_letter_by_letter():
    found = UNICODE.rouge("新的方法", ["新方法"])
    assert found["rouge1"] == pytest.approx(2 * 3 / 7) and found["rouge2"] == pytest.approx(2 / 5)


# What a tokenizer leaves


def test_references_without_a_token_are_refused_with_the_setting_to_type():
    found = Scorer().coverage([("a", ["新的方法"]), ("b", ["Метод"])])
    assert "no reference holds a token" in found.refusal and "--set scoring.tokenizer=unicode" in found.refusal
    assert UNICODE.coverage([("a", ["新的方法"])]).refusal == UNICODE.coverage([("a", ["新的方法"])]).note == ""
    assert "give references with letters or digits" in UNICODE.coverage([("a", ["!?"])]).refusal


def test_letters_that_fall_away_are_said_above_the_threshold():
    few, many = "a" * 99 + "é" * 1, "a" * 95 + "é" * 5
    assert 0.01 < FALLEN < 0.05
    assert Scorer().coverage([("a", [few])]).note == ""
    found = Scorer().coverage([("a", [many])])
    assert "5 % of the letters" in found.note and found.refusal == ""
    assert UNICODE.coverage([("a", [many])]).note == ""


def test_documents_without_a_token_are_counted_among_others():
    found = Scorer().coverage([(str(n), ["fine words here"]) for n in range(400)] + [("odd", ["!"])])
    assert "1 of 401 documents" in found.note and "odd" in found.note and found.refusal == ""


def test_one_reference_with_a_token_is_enough():
    assert Scorer().coverage([("a", ["新", "new"])]).empty == ()


# The signature


def test_the_signature_names_every_version_and_setting_that_matters():
    from importlib.metadata import version

    said = Scorer().signature()
    assert f"rouge-score:{version('rouge-score')}" in said and f"nltk:{version('nltk')}" in said
    assert "stemmer:yes" in said and "tokenizer:rouge-score" in said and "references:best" in said
    other = UNICODE.signature()
    assert "stemmer:no" in other and "tokenizer:unicode" in other and unicodedata.unidata_version in other


def test_a_signature_of_an_earlier_version_means_the_defaults():
    import re

    old = "rouge-score:0.1.2|nltk:3.10.4|metrics:rouge1,rouge2,rougeL|value:f1|stemmer:yes|average:documents"
    new = re.sub("nltk:[^|]*", "nltk:3.10.4", Scorer().signature())
    assert same_scores(old, new) and same_scores(new, old)
    assert not same_scores(old, MEAN.signature()) and not same_scores(old, UNICODE.signature())
    assert not same_scores(old, old.replace("0.1.2", "0.1.3"))
