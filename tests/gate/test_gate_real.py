"""The gate of the ci preset goes red by its own verdict for a real model that learned nothing."""

import pytest

from bakeoff.session import worker
from bakeoff.shipped import ROOT

ACCEPTED = ROOT / "bench" / "baselines" / "ci.json"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ACCEPTED.is_file(),
        reason="no baseline; type pytest bench/ --preset ci --method lora --seeds 1,2,3,4,5 --update-baseline",
    ),
]


def test_at_learning_rate_0_the_gate_is_red_by_its_own_verdict(tmp_path, capfd):
    worker.start_server(offline=True)
    code = pytest.main([
        str(ROOT / "bench" / "test_quality.py"), "-k", "test_gate", "--preset", "ci", "--method", "lora", "--gate",
        "--set", "methods.lora.learning_rate=0", "--set", "training.epochs=1",
        "--set", "task.train=4", "--set", "task.validation=4", "--report-dir", str(tmp_path),
        "-p", "no:cacheprovider",
    ])  # fmt: skip
    out = capfd.readouterr().out
    assert code == 1
    assert "lora on ROUGE-L: regressed: " in out and "training.learning_rate 0.001 -> 0.0" in out
