"""The gate of the ci preset goes red by its own verdict: for a model that learned nothing, and for maimed summaries."""

import dataclasses
import json

import pytest

from bakeoff import baseline, scoring, settings, worker
from bakeoff.gate import judge
from bakeoff.settings import ROOT
from bakeoff.store import Store

pytestmark = pytest.mark.slow
ACCEPTED = ROOT / "reports" / "baselines" / "ci.json"


@pytest.fixture
def bench(tmp_path, capfd):
    """Types `pytest bench/test_quality.py -k test_gate` with LoRA on the ci preset: `code, out = bench("--gate")`."""
    worker.start_server(offline=True)

    def run(*arguments):
        command = [str(ROOT / "bench" / "test_quality.py"), "-k", "test_gate", "--preset", "ci", "--method", "lora",
                   "--gate", "--report-dir", str(tmp_path), "-p", "no:cacheprovider", *arguments]  # fmt: skip
        code = int(pytest.main(command))
        return code, capfd.readouterr().out

    return run


def test_at_learning_rate_0_the_gate_is_red_by_its_own_verdict(bench):
    code, out = bench("--set", "methods.lora.learning_rate=0")
    assert code == 1
    assert "lora on ROUGE-L: regressed: " in out and "training.learning_rate 0.001 -> 0.0" in out


def test_with_every_third_word_dropped_the_gate_is_red_by_its_own_verdict(bench, tmp_path):
    code, out = bench()
    assert code == 0, out
    [fingerprint] = json.loads((tmp_path / "results.json").read_text())["methods"]["lora"]["runs"]
    store = Store(ROOT / ".bakeoff")
    run, written = store.find(fingerprint), store.predictions(fingerprint)
    maimed = [" ".join(w for n, w in enumerate(one.summary.split(), 1) if n % 3) for one in written]
    worse = dataclasses.replace(run, scores=scoring.score(maimed, [one.reference for one in written]))
    gate = settings.load("ci").gate
    found = judge(
        baseline.of_runs("ci", {"lora": [worse]}, written),
        baseline.read(ACCEPTED),
        tolerance=gate.tolerance,
        alpha=gate.alpha,
        asked=["lora"],
    )
    assert found.refusals == {}
    assert found.verdict("lora", "rouge2").word == "regressed"
