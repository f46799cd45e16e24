"""Metrics of one's own: found in a file, set up, refused in one line, kept, and never a reason to lose a report."""

import dataclasses
import json

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from bakeoff import Metric
from bakeoff.config.schema import ScoringSettings, Settings
from bakeoff.core.errors import UsageError
from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring import registry
from bakeoff.scoring.compute import beside

MINE = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass
class Numbers:
    """Share of summaries that hold a number of `digits` digits."""

    name: ClassVar[str] = "numbers"
    better: ClassVar[str] = "higher"
    range: ClassVar[tuple] = (0.0, 1.0)
    binary: ClassVar[bool] = True
    digits: int = 1

    @property
    def signature(self):
        return f"numbers of {self.digits}"

    def score(self, predictions, references, documents):
        return [float(any(len(w) == self.digits and w.isdigit() for w in text.split())) for text in predictions]
'''
WRITTEN = [Prediction("a", "d", "r", "7 apples"), Prediction("a", "d", "r", "none"), Prediction("b", "d", "r", "12")]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def load(*metrics, **scoring):
    return registry.load(Settings(scoring=ScoringSettings(metrics=metrics, **scoring)))


def test_a_file_with_one_class_is_a_metric_and_its_fields_are_settings(mine):
    [one] = load(str(mine))
    assert isinstance(one, Metric) and one.digits == 1
    [two] = load(f"{mine}:digits=2")
    found = beside([two], {"lora": [WRITTEN]}, ["a", "b"])
    assert found.values["lora"]["numbers"] == [[0.0, 1.0]]  # a document counts once, with the mean of its summaries
    assert found.facts["numbers"].signature == "numbers of 2" and found.facts["numbers"].binary


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('better: ClassVar[str] = "higher"', 'better: ClassVar[str] = "more"'), "expected 'higher', 'lower'"),
        (("range: ClassVar[tuple] = (0.0, 1.0)", "range: ClassVar[tuple] = (1.0,)"), "expected two numbers"),
        (('= "numbers"', '= "rouge1"'), "is ROUGE's"),
        (('= "numbers"', '= "two words"'), "expected letters"),
        (("def score", "def scores"), "found 0"),
        (("predictions, references, documents", "predictions"), "expected self, predictions, references, documents"),
        (("def signature", "def signatur"), "signature is missing"),
        (("from dataclasses", "frm dataclasses"), "mine.py:2: SyntaxError"),
    ],
)
def test_a_file_that_is_no_metric_is_refused_in_one_line(mine, change, said):
    mine.write_text(MINE.replace(*change), encoding="utf-8")
    with pytest.raises(UsageError, match=said) as error:
        load(str(mine))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metrics", "verdicts", "said"),
    [
        (["chfr"], ["rouge1"], "did you mean 'chrf'"),
        (["chrf", "chrf"], ["rouge1"], "two metrics are called 'chrf'"),
        (["chrf:order=2"], ["rouge1"], "has no settings"),
        (["missing.py"], ["rouge1"], "no such file"),
        (["bertscore"], ["rouge1"], "bertscore:model=FOLDER"),
        (["density"], ["density"], "can't carry a verdict"),
        (["chrf"], ["bleu"], "no metric of this bake-off"),
        (["chrf"], [], "expected one metric or more"),
    ],
)
def test_wrong_metrics_and_verdicts_are_refused_before_the_first_run(metrics, verdicts, said):
    with pytest.raises(UsageError, match=said):
        load(*metrics, verdicts=tuple(verdicts))


def test_metrics_and_verdicts_change_no_run():
    from bakeoff.config.schema import READ_LATER

    assert {f.name for f in dataclasses.fields(ScoringSettings)} - set(READ_LATER) == {"tokenizer", "references"}


def test_values_are_computed_once_and_again_where_texts_or_metric_change(mine, tmp_path):
    def seen(written=WRITTEN, settings=""):
        [one] = load(f"{mine}{settings}")
        calls = []
        own, type(one).score = type(one).score, lambda self, *texts: calls.append(1) or own(self, *texts)
        found = beside([one], {"lora": [written]}, ["a", "b"], tmp_path / "kept")
        return len(calls), found.values["lora"]["numbers"]

    assert seen() == (1, [[0.5, 0.0]])
    assert seen() == (0, [[0.5, 0.0]])
    assert seen(settings=":digits=2") == (1, [[0.0, 1.0]])
    assert seen([*WRITTEN[:2], dataclasses.replace(WRITTEN[2], summary="9")]) == (1, [[0.5, 1.0]])
    mine.write_text(MINE.replace("text.split()", "text"), encoding="utf-8")
    assert seen() == (1, [[0.5, 1.0]])
    for file in (tmp_path / "kept").iterdir():
        kept = {key: {**value, "values": [7.0] * 3} for key, value in json.loads(file.read_bytes()).items()}
        file.write_text(json.dumps(kept))
    assert seen() == (1, [[0.5, 1.0]])  # what is outside of the metric's range was not written by it


@pytest.mark.parametrize(
    "line", ["raise KeyError('x')", "return [0.5]", "return [2.0] * 3", "return [float('nan')] * 3"]
)
def test_a_metric_that_breaks_its_word_is_left_out_with_its_reason(mine, line):
    mine.write_text(MINE.replace("return [float(any", f"{line}\n        return [float(any"), encoding="utf-8")
    found = beside(load("chrf", str(mine)), {"lora": [WRITTEN]}, ["a", "b"])
    assert list(found.facts) == ["chrf"] and list(found.values["lora"]) == ["chrf"]
    [said] = found.failures
    assert "'numbers'" in said and "\n" not in said


def test_bertscore_is_greedy_matching_of_the_hidden_states(tmp_path):
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).eval()
    model.save_pretrained(tmp_path)
    [one] = load(f"bertscore:model={tmp_path}:layer=1")
    texts = [("a b c", ["c b a d", "h"]), ("e", ["f g"]), ("a b", ["a b"]), ("", ["a"])]
    found = one.score([ours for ours, _ in texts], [known for _, known in texts], [""] * 4)

    def states(text):
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            rows = model(**batch, output_hidden_states=True).hidden_states[1][0, 1:-1].double()
        return [row / row.norm() for row in rows]

    def f1(ours, theirs):
        table = [[float(a @ b) for b in states(theirs)] for a in states(ours)]
        precision = sum(map(max, table)) / len(table)
        recall = sum(map(max, zip(*table, strict=True))) / len(table[0])
        return 2 * precision * recall / (precision + recall)

    assert found[:3] == pytest.approx([max(f1(ours, one) for one in known) for ours, known in texts[:3]], abs=1e-5)
    assert found[2] == pytest.approx(1) and found[3] == 0
    assert "layer:1" in one.signature
