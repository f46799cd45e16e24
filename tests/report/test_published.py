"""Published tables: checked where they enter, shown beside what was measured, and no verdict drawn from their means."""

import dataclasses
import re

import pytest
from factories import run, settings

from bakeoff.config.presets import load
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import ParameterCounts
from bakeoff.metrics.rouge import METRICS
from bakeoff.report import document, published
from bakeoff.report.comparison import compare
from bakeoff.report.sections import published_table as shown
from bakeoff.shipped import ROOT

[REFERENCE] = published.beside(load("reference"))
GOOD = """
preset = "quick"
model = "m"
task = "t"
source = "someone"
[methods.lora]
total = 10
trainable = 4
frozen = 6
rouge1 = 0.25
"""


def written(tmp_path, text):
    path = tmp_path / "paper.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_table_that_ships_is_read():
    assert [published.load(path).preset for path in (ROOT / "bench" / "published").glob("*.toml")] == ["reference"]


def test_a_table_stands_beside_its_preset_model_and_task_only():
    assert published.beside(load("quick")) == published.beside(load("reference", model="smollm2-135m")) == []


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ("rouge1 = 0.25", "rouge1 = 25", r"paper.toml:10: methods.lora.rouge1 = 25"),
        ("rouge1 = 0.25", "rouge3 = 0.1", r"paper.toml:10: 'methods.lora.rouge3' is not a setting"),
        ("total = 10", "total = 11", r"paper.toml:7: methods.lora.total = 11: expected trainable \+ frozen, 10"),
        ('"quick"', '"quik"', r"paper.toml:2: preset = 'quik'; did you mean 'quick'"),
        ('source = "someone"', "", r"paper.toml: source: expected a text"),
        ("[methods.lora]", "[lora]", r"paper.toml: methods: expected tables"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path, old, new, complaint):
    assert published.load(written(tmp_path, GOOD)).methods["lora"].rouge1 == 0.25
    with pytest.raises(UsageError, match=complaint):
        published.load(written(tmp_path, GOOD.replace(old, new)))


def test_counts_must_match_exactly():
    counts = ParameterCounts(total=125_790_720, trainable=589_824, frozen=125_200_896, added=589_824, tied=38_598_144)
    assert REFERENCE.mismatches("lora", counts) == []
    other = dataclasses.replace(counts, total=125_790_721, frozen=125_200_897)
    assert len(REFERENCE.mismatches("lora", other)) == 2


def test_the_report_shows_published_beside_measured_with_the_difference():
    counts = {"total": 125_790_720, "trainable": 589_824, "frozen": 125_200_896, "added": 589_824, "tied": 38_598_144}
    one = run("lora", scores={metric: [0.25, 0.25] for metric in METRICS},
              parameters={"requires_grad": counts})  # fmt: skip
    text = document.render(compare(settings(), {"lora": [one]}, published=[REFERENCE]), {}, [])
    assert "| lora: parameters, total | 164,388,864 | 164,388,864 | none |" in text
    assert "| lora: ROUGE-1 | 21.48 | 25.00 | +3.52 |" in text
    assert "| lora: reserved memory | 6.40 GB | – | – |" in text
    assert "last-layer: parameters" not in text and "Beside published figures" in text


def test_the_generator_does_not_repeat_the_published_error():
    """The published text names last layer as the highest ROUGE; its table says LoRA, on all three metrics."""
    said = shown.sentences(REFERENCE, str)
    for label, sentence in zip(("ROUGE-1", "ROUGE-2", "ROUGE-L"), said, strict=True):
        assert re.match(rf"Published {label}: the highest mean is \S+, by lora; then last-layer", sentence)
    assert said[1].endswith("The highest is 26.91 times the lowest.")
    assert not re.search("best|better|is above|is below|distinguishable|significant", " ".join(said))
