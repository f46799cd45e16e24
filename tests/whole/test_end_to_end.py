"""pytest bench/ as a user types it, from the command to the report, twice."""

import json
import subprocess
import sys

import pytest
from factories import DOOMED

from bakeoff.shipped import ROOT


def typed(folder, *arguments, store=""):
    """`pytest bench/` in a process of its own, with the report in `folder`, and the store, if no other is given."""
    command = [sys.executable, "-m", "pytest", "bench", "-p", "no:cacheprovider", "--store",
               str(store or folder / "store"), "--report-dir", str(folder / "report"), *arguments]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=500)


@pytest.fixture(scope="module")
def twice(tmp_path_factory, furnished):
    """A folder in which the smoke preset was baked twice, and what both commands printed."""
    folder = tmp_path_factory.mktemp("twice")
    furnished(folder / "store")
    records = [folder / "first.json", folder / "second.json"]
    common = ("--preset", "smoke", "--method", "reference")
    return folder, [typed(folder, *common, "--benchmark-json", str(record)) for record in records]


def test_a_bake_off_prints_its_table_and_leaves_report_json_and_plots(twice):
    folder, (first, _) = twice
    assert first.returncode == 0, first.stdout + first.stderr
    for word in ("ROUGE-1", "last-layer", "lora", "soft-prompt", "zero-shot", "oracle", "signature: rouge-score:"):
        assert word in first.stdout
    found = json.loads((folder / "report" / "results.json").read_text())
    assert set(found["methods"]) == {"last-layer", "lora", "soft-prompt"} and found["schema"] == 1
    assert (folder / "report" / "report.md").is_file()
    plots = {path.name for path in (folder / "report" / "plots").iterdir()}
    assert {"rouge.png", "loss.png"} <= plots


def test_a_second_bake_off_trains_nothing_and_reports_the_same(twice):
    _, (first, second) = twice
    assert second.returncode == 0, second.stdout + second.stderr
    assert "runs: 9 made, 0 reused" in first.stdout and "runs: 0 made, 9 reused" in second.stdout
    assert second.stdout.count("not trained again") == 3


def test_benchmarks_record_booked_seconds_even_of_a_reused_run(twice):
    folder, _ = twice
    first, second = (json.loads((folder / f"{name}.json").read_text())["benchmarks"] for name in ("first", "second"))
    means = [{row["name"]: row["stats"]["mean"] for row in rows} for rows in (first, second)]
    assert means[0] == means[1]
    seconds = json.loads((folder / "report" / "results.json").read_text())["methods"]["lora"]["seconds"]["train"]
    [lora] = [row for row in second if row["extra_info"]["method"] == "lora" and row["group"] == "training"]
    assert lora["stats"]["mean"] == pytest.approx(seconds)
    assert {"rouge1", "rouge2", "rougeL", "parameters", "memory_bytes"} <= set(lora["extra_info"])


@pytest.mark.slow
def test_a_dead_run_fails_its_own_tests_and_no_other(tmp_path, furnished):
    furnished(tmp_path / "store")
    (tmp_path / "doomed.py").write_text(DOOMED)
    found = typed(tmp_path, "--preset", "smoke", "--method", str(tmp_path / "doomed.py"), "--method", "lora",
                  "--set", "task.train=4", "--set", "task.test=2", "--set", "training.epochs=1")  # fmt: skip
    assert found.returncode == 1
    failed = [line for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert failed and all("doomed" in line for line in failed)
    assert "1 dead" in found.stdout and "exit code 7" in found.stdout and "Traceback" not in found.stdout


@pytest.mark.slow
def test_the_real_model_learns_from_real_papers(tmp_path):
    # In the project's own store, where `make gate` leaves this run: it takes minutes.
    found = typed(tmp_path, "--preset", "ci", "--method", "lora", store=ROOT / ".bakeoff")
    assert found.returncode == 0, found.stdout + found.stderr
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    lora = results["methods"]["lora"]
    losses = [point["validation_loss"] for point in lora["epochs"][0]]
    assert losses[-1] < losses[0] < 5
    assert 0 < lora["rouge"]["rouge1"]["mean"] < 1 and len(results["document_ids"]) == 40
    assert lora["parameters"]["trainable"] == 921_600 and lora["parameters"]["total"] == 134_515_008 + 921_600
    assert "Q4_1" in (tmp_path / "report" / "report.md").read_text()
