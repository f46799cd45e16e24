"""What a pull request is told: the verdict, the changes, the documents that lost; inert and within the limits."""

import dataclasses
import re

import pytest
from factories import predictions, run

from bakeoff.gate import baseline
from bakeoff.gate.verdicts import judge
from bakeoff.metrics.rouge import METRICS
from bakeoff.report.exports import comment

FIVE = (1, 2, 3, 4, 5)
EVIL = "</td><script>alert(1)</script> ![x](http://evil/x.png) [y](javascript:z) @octocat #1 `a` | <!-- --> \u202e"


def scores(drops, documents=12):
    """Every document scores 0.5, but for those of `drops`."""
    return {metric: [0.5 - drops.get(n, 0.0) + 0.001 * n for n in range(documents)] for metric in METRICS}


def sides(drops=None, methods=("lora",), documents=12):
    """A gate, and the records of both sides."""
    accepted = {name: [run(name, seed=s, scores=scores({}, documents)) for s in FIVE] for name in methods}
    measured = {name: [run(name, seed=s, scores=scores(drops or {}, documents)) for s in FIVE] for name in methods}
    old, new = (baseline.of_runs("p", side) for side in (accepted, measured))
    return judge(new, old, tolerance=1.0, alpha=0.05, asked=list(methods)), new, old, measured


def test_the_three_documents_that_lost_most_are_named_worst_first():
    gate, new, old, measured = sides({3: 0.1, 5: 0.4, 7: 0.2, 9: 0.3, 1: -0.2})
    found = comment.losses(gate, new, old, {"lora": predictions(measured["lora"][0], "What it writes now.")})
    assert [one.document for one in found] == ["paper-5", "paper-9", "paper-7"]
    assert found[0].change == pytest.approx(-0.4) and found[0].summary == "What it writes now."
    text = comment.render("own", gate, False, found, "https://github.com/a/b/actions/runs/1#artifacts")
    assert "| paper-5 | lora | -40.00 | A reference. | What it writes now. |" in text
    assert text.endswith("[The whole report](https://github.com/a/b/actions/runs/1#artifacts)\n")


def test_the_first_line_is_a_marker_that_no_preset_can_break_and_the_second_the_verdict():
    gate, *_ = sides(dict.fromkeys(range(11), 0.3))
    first, second, *_ = comment.render("a--> <b>", gate, False, []).splitlines()
    assert re.fullmatch(r"<!-- bakeoff gate: [\w.]+ -->", first) and second.startswith("## Bakeoff's gate is red: ")
    green = comment.render("own", sides()[0], False, [])
    assert "## Bakeoff's gate is green: 3 verdicts" in green and "lost" not in green


def test_text_of_models_and_documents_is_inert():
    gate, new, old, measured = sides({5: 0.4})
    written = [dataclasses.replace(one, summary=EVIL, references=(EVIL,)) for one in predictions(measured["lora"][0])]
    text = comment.render("own", gate, False, comment.losses(gate, new, old, {"lora": written}))
    [row] = [line for line in text.splitlines() if line.startswith("| paper-5 ")]
    unescaped = re.sub(r"\\.", "", row)  # a character behind a backslash is text
    assert not re.search(r"<(?!/?span>)|[\[\]`\u202e]|(?<!<span>)@|(?<![&>])#|://", unescaped), unescaped
    assert row.count(" | ") == 4 and "&lt;script&gt;" in row and "<span>@</span>octocat" in row


def test_the_comment_of_hundreds_of_methods_with_hostile_texts_stays_below_the_limit_of_the_host():
    names = [f"method-{'@$' * 30}-{n}" for n in range(120)]
    gate, new, old, measured = sides(dict.fromkeys(range(12), 0.3), names)
    written = {name: predictions(measured[name][0], "@$" * 9000) for name in names}
    gate = dataclasses.replace(gate, refusals=dict.fromkeys(names[:40], "@" * 5000))
    text = comment.render("own", gate, False, comment.losses(gate, new, old, written))
    assert 500 < len(text.encode()) <= 60_000 and "more in the report" in text and "40 refused" in text


def test_the_link_is_that_of_the_run_and_nothing_else(monkeypatch):
    for name, value in (("SERVER_URL", "https://github.com"), ("REPOSITORY", "a/b"), ("RUN_ID", "12")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    assert comment.link_here() == "https://github.com/a/b/actions/runs/12#artifacts"
    monkeypatch.setenv("GITHUB_RUN_ID", "1) [x](http://evil")
    assert comment.link_here() == ""
