"""The lab of growth: a part that grows too fast is named, and a small bake-off of simulated runs goes through."""

import json

import pytest

from lab.growth import measure


def runs(*seconds, part="find"):
    """Rows of 1,000 and 10,000 runs, of which one part took so many seconds."""
    rest = {**dict.fromkeys(measure.PARTS, 1.0), "resident_bytes": 3e8}
    rest |= {f"{part} bytes": 2e8 for part in measure.PARTS}
    sizes = dict.fromkeys(("report.md", "index.html", "results.json"), 1)
    counts = (1_000, 10_000)
    return [{"runs": n, **rest, **sizes, part: value} for n, value in zip(counts, seconds, strict=True)]


READ = [{"documents": count, "load and split": count / 1e4, "encode": count / 1e3, "batch": count / 1e4,
         "resident_bytes": 2e8} for count in (10_000, 100_000)]  # fmt: skip


@pytest.mark.parametrize("seconds, said", [
    ((1.0, 10.0), "no part grew worse than n log n"),
    ((1.0, 13.3), "no part grew worse than n log n"),
    ((1.0, 50.0), "worse than n log n grew: find"),
    ((0.001, 0.4), "no part grew worse than n log n"),  # too short to be judged
])  # fmt: skip
def test_what_grows_worse_than_n_log_n_is_named(seconds, said):
    text = measure.text(runs(*seconds), READ)
    assert f"From 1,000 to 10,000 runs and from 10,000 to 100,000 documents, {said}." in text
    assert "The process stayed under 1 GB: it took at most 300 MB." in text


def test_memory_over_the_limit_is_said_and_so_is_what_ten_million_documents_would_take():
    rows = [{**row, "resident_bytes": 2e9} for row in runs(1.0, 10.0)]
    text = measure.text(rows, READ)
    assert "The process did not stay under 1 GB: it took at most 2,000 MB." in text
    assert "ten million take 17 min to load and split, 167 min to encode" in text


@pytest.mark.slow
def test_simulated_runs_are_reported_as_real_ones(tmp_path, furnished):
    furnished(tmp_path / "store")
    found = measure.of_runs(10, str(tmp_path))
    assert set(measure.PARTS) < set(found) and found["resident_bytes"] > 1e8
    assert found["resident_bytes"] == max(found[f"{part} bytes"] for part in measure.PARTS)
    report = (tmp_path / "report" / "report.md").read_text()
    assert all(f"| {name}" in report or f" {name} |" in report for name in measure.METHODS)


def test_a_part_that_is_not_measured_again_keeps_its_figures_and_its_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure.worker, "start_server", lambda offline: None)
    monkeypatch.setattr(measure, "measured_runs", lambda short: runs(1.0, 10.0))
    monkeypatch.setattr(measure, "measured_documents", lambda short: READ)
    assert measure.main(["--reports", str(tmp_path), "--only", "runs"]) == 2
    assert "type python -m lab.growth --only documents" in capsys.readouterr().out
    assert measure.main(["--reports", str(tmp_path)]) == 0
    old = json.loads((tmp_path / "documents.json").read_text())
    (tmp_path / "documents.json").write_text(json.dumps({**old, "date": "2026-01-02"}))
    monkeypatch.setattr(measure, "measured_documents", lambda short: pytest.fail("measured again"))
    monkeypatch.setattr(measure, "measured_runs", lambda short: runs(1.0, 50.0))
    assert measure.main(["--reports", str(tmp_path), "--only", "runs"]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "worse than n log n grew: find" in text and "documents on 2026-01-02." in text
