"""Sentences in every script."""

import time

import pytest

from bakeoff.core.writing import join_sentences, split_sentences
from bakeoff.data.tasks import Example

SENTENCES = [
    ["Hello there.", "This is 3.5, e.g. fine, so.", '"Really?"', "She said."],
    ["这篇论文提出了新方法。", "结果显示提高了。", "他说：「好！」", "真的？", "是３．１４。"],
    ["这是.", "结果!", "真的?", "见2.3节"],
    ["これは文です。", "「はい。」", "次の文！？"],
    ["यह एक वाक्य है।", "दूसरा वाक्य॥", "तीसरा"],
    ["هل هذا سؤال؟", "نعم.", "جيد"],
    ["یہ ایک جملہ ہے۔", "دوسرا جملہ۔"],
    ["Սա նախադասություն է։", "Երկրորդ։"],
    ["ይህ ዓረፍተ ነገር ነው።", "ሁለተኛ።"],
    ["ភាសាខ្មែរ។", "ទីពីរ។"],
    ["မြန်မာစာ။", "ဒုတိယ။"],
    ["Это тест.", "Второе предложение, т. е. «тест».", "Третье!"],
    ["ეს წინადადებაა.", "მეორე."],
    ["안녕하세요.", "두 번째 문장입니다."],
    ["ประโยคแรก", "ประโยคที่สอง 25 ปี", "จบ"],
    ["¿Qué?", "¡Sí!", "«Bien.»", "Él."],
]


@pytest.mark.parametrize("sentences", SENTENCES, ids=lambda value: value[0])
def test_sentences_are_found_in_every_script(sentences):
    assert split_sentences(" ".join(sentences)) == tuple(sentences)
    assert split_sentences("\n".join(sentences)) == tuple(sentences)
    assert split_sentences(join_sentences(sentences)) == tuple(sentences)


@pytest.mark.parametrize("sentences", [s for s in SENTENCES if s[0][-1] in "。।۔։።។။"], ids=lambda value: value[0])
def test_a_mark_that_is_sure_needs_no_space(sentences):
    assert split_sentences("".join(sentences)) == tuple(sentences)


@pytest.mark.parametrize("text", ["", " ", "."])
def test_a_text_without_a_sentence_is_one(text):
    assert split_sentences(text) == (text,)


def test_a_document_is_split_where_its_source_marks_nothing():
    assert Example("a", "第一。第二。", "s").sentences == ("第一。", "第二。")


def test_the_time_of_splitting_grows_with_the_text():
    start = time.perf_counter()
    assert len(split_sentences("Word (word. Word ก ข " * 50_000)) > 50_000
    assert time.perf_counter() - start < 20
