"""The report as a whole: what stands in it, what doesn't, and that the same comparison leaves the same bytes."""

import json
import re

import pytest
from factories import predictions, run, settings

from bakeoff import report
from bakeoff.metrics.rouge import METRICS
from bakeoff.report import document, results_json, table
from bakeoff.report.comparison import compare
from bakeoff.report.escape import plain
from bakeoff.runs.records import Death

DEATH = Death("full", 42, "training", "RuntimeError: out of memory\nat | step 1", "/home/someone/logs/abc.log")


def compared(*runs, deaths=(), trials=None, **changes):
    """The comparison of runs, grouped by method in their order."""
    results = {}
    for one in runs:
        results.setdefault(one.spec["method"], []).append(one)
    return compare(settings(**changes), results, deaths, trials)


def usual(**more):
    """Two methods, two controls, one death."""
    runs = [
        run("lora", 0.38),
        run("soft-prompt", 0.2),
        run("zero-shot", 0.25, control=True),
        run("oracle", 0.5, control=True),
    ]
    return compared(*runs, deaths=[DEATH], trials={"lora": 3}, **more)


def page(comparison, written=None):
    """report.md without its plots."""
    return document.render(comparison, written or {}, [])


def cells(text, label):
    """The cells of a table's row, without its label; of the first table that has such a row."""
    line, *_ = [line for line in text.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def flat(value, documents=4):
    return {metric: [value] * documents for metric in METRICS}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a report in it."""
    comparison = usual()
    folder = tmp_path_factory.mktemp("report")
    samples = {row.name: predictions(row.runs[0]) for row in comparison.rows}
    assert report.write(comparison, samples, folder) == folder / "report.md"
    return folder


def test_the_sections_stand_in_their_order(written):
    headings = re.findall(r"^##? (.+)$", (written / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [
        "Bake-off: synthetic", "Conclusion", "Comparison", "Samples", "Details",
    ]  # fmt: skip
    folds = re.findall(r"^<summary>(.+)</summary>$", (written / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert folds == [
        "Other figures", "Settings of the methods", "Differences", "Controls", "Plots",
        "Performance", "Training efficiency", "Memory", "Parameters", "Settings, environment, signature",
    ]  # fmt: skip


def test_what_is_folded_is_markdown_behind_empty_lines(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert text.count("<details") == text.count("</details>") == text.count('<details markdown="1">\n<summary>')
    assert not re.search(r"</summary>\n[^\n]|[^\n]\n</details>", text)


def test_every_plot_that_is_linked_is_there_beside_results_and_page(written):
    links = re.findall(r"\]\((.+?)\)", (written / "report.md").read_text(encoding="utf-8"))
    assert links == [
        "plots/rouge.png",
        "plots/pareto.png",
        "plots/loss.png",
    ]
    files = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert files == {*links, "report.md", "results.json", "index.html", "details.json"}
    assert all((written / link).read_bytes().startswith(b"\x89PNG") for link in links)


def test_two_writes_leave_the_same_bytes(written, tmp_path):
    comparison = usual()
    report.write(comparison, {row.name: predictions(row.runs[0]) for row in comparison.rows}, tmp_path)
    for path in (path for path in written.rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes(), path.name


def test_plots_of_an_earlier_report_go_and_other_files_stay(tmp_path):
    (tmp_path / "plots").mkdir()
    for name in ("loss-gone.png", "validation.png", "mine.png"):
        (tmp_path / "plots" / name).write_bytes(b"")
    report.write(compared(run("lead-1", control=True)), {}, tmp_path)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["mine.png", "rouge.png"]


def test_the_comparison_table_has_metrics_as_rows_and_methods_as_columns():
    text = page(usual())
    assert cells(text, "figure") == ["lora", "soft-prompt", "full (dead)"]
    mean, low, high = (
        f"{100 * getattr(usual().methods[0].rouge['rouge1'], name):.2f}" for name in ("mean", "low", "high")
    )
    assert cells(text, "ROUGE-1 F1 x 100")[0] == f"{mean} [{low}, {high}]"
    assert cells(text, "training, s") == ["78.0", "**60.0**", "–"]
    assert cells(text, "parameters, total")[0] == "134,975,808"
    assert cells(text, "parameters with ties, total")[0] == "163,287,360"
    assert cells(text, "adapter size")[0] == "1.84 MB"
    assert cells(text, "settings tried on validation") == ["3", "–", "–"]


def several(**means):
    """A comparison with three seeds a method."""
    return compared(*(run(name, mean, seed=seed) for name, mean in means.items() for seed in range(3)), seeds=(0, 1, 2))


def test_what_cannot_be_told_from_the_best_is_bold_and_shares_a_letter():
    found = cells(page(several(low=0.1, high=0.6, near=0.59)), "ROUGE-1 F1 x 100")
    assert [(cell.count("**"), cell.rpartition(" ")[2]) for cell in found] == [(0, "b"), (2, "a"), (2, "a")]


def test_with_one_seed_there_are_no_letters_no_bold_and_no_verdict():
    text = page(compared(run("low", 0.1), run("high", 0.6)))
    assert all(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", cell) for cell in cells(text, "ROUGE-1 F1 x 100"))
    assert "SD between seeds" not in text
    assert "documents only" in cells(text, "low - high")[0]
    assert not re.search("is above|not distinguishable|is below", text)


def test_many_methods_have_a_row_each_the_highest_above_and_the_other_figures_in_a_fold():
    means = {f"m{number}": 0.1 + 0.05 * number for number in range(table.MANY + 1)}
    text = page(several(**means))
    first, _, rest = text.partition("## Samples")
    names = re.findall(r"^\| (m\d) ", first, re.MULTILINE)
    assert names == sorted(means, reverse=True)
    assert "ROUGE-L F1 x 100" in first and "parameters, trainable" in first and "set-up, s" not in first
    assert "set-up, s" in rest.partition("</details>")[0]


def test_many_methods_are_not_listed_one_by_one_in_sentences_and_pairs():
    text = page(several(**{f"m{number}": 0.1 + 0.01 * number for number in range(30)}))
    assert max(map(len, re.findall(r"^- .+$", text, re.MULTILINE))) < 500
    assert len(re.findall(r"^\| m\d+ - m\d+ ", text, re.MULTILINE)) == 29
    assert "The other pairs are in results.json." in text


def test_the_differences_show_interval_p_and_wins():
    comparison = several(low=0.1, high=0.6)
    pair = comparison.pairs[0]
    low, high = (f"{100 * value:.2f}" for value in (pair.contrast.low, pair.contrast.high))
    [first, *_] = cells(page(comparison), "low - high")
    assert first == f"{100 * pair.contrast.difference:.2f} [{low}, {high}], p < 0.001, 0/0/20"


def test_results_json_holds_the_pairs():
    found = json.loads(results_json.render(results_json.content(several(low=0.1, high=0.6))))
    assert [(pair["first"], pair["second"], pair["metric"]) for pair in found["pairs"]] == [
        ("low", "high", metric) for metric in METRICS
    ]
    assert found["pairs"][0]["higher"] == "high" and found["pairs"][0]["wins_ties_losses"] == [0, 0, 20]
    assert (
        json.loads(results_json.render(results_json.content(usual())))["control_pairs"][0]["covers"] == "documents only"
    )


def test_seconds_that_print_the_same_are_bold_together_and_nothing_is_where_all_are_equal():
    spent = ({"training": 1.0}, {"training": 1.0}, {"training": 2.0})
    runs = [run(name, seconds=seconds) for name, seconds in zip("abc", spent, strict=True)]
    assert [cell.count("**") for cell in cells(page(compared(*runs)), "training, s")] == [2, 2, 0]
    assert [cell.count("**") for cell in cells(page(compared(*runs[:2])), "training, s")] == [0, 0]


def test_a_figure_that_nobody_measured_has_no_row_and_no_sentence():
    bare = {"seconds": {}, "tokens": {}, "memory_bytes": {}, "adapter_bytes": None, "parameters": None, "epochs": []}
    text = page(compared(run("a", **bare), run("b", scores=flat(0.5, 20), **bare)))
    bare_one = compared(run("a", **bare))
    labels = [line.label for line in table.lines(bare_one, bare_one.methods)]
    assert {label[:5] for label in labels} == {"ROUGE"} and len(labels) == 3
    said = text.partition("<summary>Training efficiency")[2].partition("<summary>Settings, ")[0]
    assert set(re.findall(r"^- (.+)$", said, re.MULTILINE)) == {"No figure was measured."}


def test_a_figure_that_one_method_lacks_is_a_dash_and_never_0():
    rows = [run("a"), run("b", seconds={}, memory_bytes={}, tokens={}, adapter_bytes=None)]
    text = page(compared(*rows))
    for label in ("training, s", "training tokens/s", "peak resident memory", "adapter size"):
        assert cells(text, label)[1] == "–"
    assert "allocated" not in text


def test_a_measured_0_is_shown_as_0():
    seconds = {"setup": 0.04, "training": 0.0, "validation": 0.0, "evaluation": 1.0, "checks": 0.0}
    text = page(compared(run("a", seconds=seconds)))
    assert (cells(text, "validation, s"), cells(text, "set-up, s")) == (["0.0"], ["0.04"])


def test_a_dead_run_shows_phase_and_cause_and_has_no_figures():
    text = page(usual())
    assert "| full | 42 | training | RuntimeError: out of memory\\\\nat &#124; step 1 | abc.log |" in text
    assert "/home/someone" not in text
    lines = [line for line in table.lines(usual(), usual().methods) if line.metric is None]
    assert {cells(text, line.label)[2] for line in lines if line.label not in table.FIRST} == {"–"}


def test_a_method_with_a_dead_seed_says_so_beside_its_name():
    text = page(compared(run("lora"), deaths=[Death("lora", 43, "start", "killed by signal 9")], seeds=(42, 43)))
    assert cells(text, "figure") == ["lora (1 seed dead)"]
    assert "killed by signal 9" in text


def test_several_seeds_show_the_spread_and_one_seed_prints_no_row_of_it():
    [spread] = cells(page(compared(run("a", seed=1), run("a", seed=2), seeds=(1, 2))), "ROUGE-1, SD between seeds")
    assert float(spread) > 0
    assert "SD between seeds" not in page(compared(run("a")))


@pytest.mark.parametrize("rows", [{}, {"deaths": [DEATH]}], ids=["nothing", "a death"])
def test_without_a_finished_run_there_is_still_a_report(rows, tmp_path):
    text = report.write(compared(**rows), {}, tmp_path).read_text(encoding="utf-8")
    assert "No trained method finished, so nothing is concluded." in text
    assert ("out of memory" in text) == bool(rows)


def test_the_settings_name_the_weights_the_machine_and_the_signature():
    text = page(usual())
    for line in (
        "| base model's weights | dequantised Q4_1 |",
        "| precision | bf16 |",
        "| system | Linux |",
    ):
        assert line in text
    assert "rouge-score:0.1.2&#124;stemmer:yes" in text


def test_how_documents_stand_together_replaces_no_other_setting():
    said = {"documents": "in one row", "engine_reason": "the processor has no tiles"}
    text = page(compared(run("a", environment=said)))
    assert "| documents | training " in text and "| documents in a forward pass | in one row |" in text
    assert "| engine, not faster because | the processor has no tiles |" in text


def test_settings_that_differ_stand_in_a_table_and_shared_ones_in_a_line():
    text = page(compared(run("a", passes=3), run("b", passes=9)))
    assert "| epochs | 3 | 9 |" in text
    assert "Shared by all: learning_rate 0.001, batch_size 8, schedule linear, rank 16." in text


def test_truncated_documents_are_counted_where_they_differ():
    assert "17 documents and 0 summaries" in page(compared(run("a")))
    other = page(compared(run("a"), run("b", truncated={"documents": 2, "summaries": 1})))
    assert "| a | 17 | 0 |" in other and "| b | 2 | 1 |" in other


def test_samples_show_three_documents_with_what_each_method_wrote():
    comparison = usual()
    text = page(comparison, {row.name: predictions(row.runs[0], f"By {row.name}.") for row in comparison.rows})
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == ["paper-0", "paper-10", "paper-19"]
    assert text.count("By lora.") == text.count("By soft-prompt.") == 3
    assert "| reference |  | A reference. |" in text


@pytest.mark.parametrize(
    "foreign", ["<script>x</script>", "a | b\n::error::c", "![i](http://e.example)", "\x1b[31m\u202e", ""]
)
def test_foreign_text_is_inert_in_the_page(foreign):
    one = run(
        "lora", environment={"system": foreign}, signature=foreign, document_ids=[foreign, "b"], scores=flat(0.5, 2)
    )
    died = Death(foreign or "x", 1, foreign, foreign)
    text = page(compared(one, deaths=[died], description=foreign), {"lora": predictions(one, foreign)})
    text = re.sub(r'^</?(details( markdown="1")?|summary)>(.*</summary>)?$', "", text, flags=re.MULTILINE)
    assert not re.search(r"<(?!/?span>)|(?<!\\)\]\(|://|\x1b|\u202e|^\s*::", text, re.MULTILINE)
    rows = [line for line in text.splitlines() if line.startswith("| lora |")]
    assert {line.count("|") for line in rows} == {4}


def test_the_terminal_shows_table_controls_and_deaths_as_plain_text():
    text = report.terminal(usual())
    assert text.startswith("2 methods and 2 controls on aclsum/outcome with the base model smollm2-135m")
    assert re.search(r"^ROUGE-1 F1 x 100 +\d\d\.\d\d \[\d\d\.\d\d, \d\d\.\d\d\]", text, re.MULTILINE)
    assert re.search(r"^zero-shot +\d\d\.\d\d ", text, re.MULTILINE)
    assert "dead: full, seed 42, in training: RuntimeError: out of memory\\nat | step 1" in text
    assert "*" not in text


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("name", ["m{}", "{}-a-method-with-a-name-that-never-ends:learning_rate=0.0001"])
def test_the_tables_of_the_terminal_fit_100_columns_and_say_what_they_leave_out(count, name):
    runs = [run(name.format(n), 0.2 + 0.01 * n, seed=seed) for n in range(count) for seed in range(3)]
    comparison = compared(*runs, run("oracle", 0.5, control=True), seeds=(0, 1, 2))
    text = report.terminal(comparison).partition("\n\n")[2]
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    for line in table.lines(comparison, comparison.methods):
        if (line.metric and line.metric.name in comparison.verdicts) or line.label in table.FIRST:
            assert line.label in said or all(word in said for word in line.label.split()), line.label
    assert ("are cut; report.md has them whole" in text) == (len(name) > 32)
    for row in comparison.methods:
        assert row.name[:10] in text


def test_the_terminal_breaks_methods_into_blocks_of_one_width():
    text = report.terminal(compared(*(run(f"method-{n}") for n in range(8))))
    blocks = re.findall(r"^method  .+$", text, re.MULTILINE)
    assert [len(line.split()) for line in blocks] == [4, 4, 3]
    text = report.terminal(compared(*(run(f"method-{n}") for n in range(9))))
    assert len(re.findall(r"^method-3 ", text, re.MULTILINE)) == 1
    assert "report.md has what this table has no room for: " in text


def test_no_line_of_the_terminal_is_a_command_of_the_ci_host():
    died = Death("x", 1, "setup", "a\n::error::b ##[error]c")
    text = report.terminal(compared(run("a"), deaths=[died], model=settings().model))
    assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)


@pytest.mark.filterwarnings("error")
def test_a_name_that_fonts_or_mathematics_choke_on_is_drawn(tmp_path):
    report.write(compared(run("a$b^{x}$"), run("名前\n" * 50)), {}, tmp_path)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["loss.png", "rouge.png"]


def number_or_none(value):
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def test_results_json_holds_the_schema():
    found = json.loads(results_json.render(results_json.content(usual())))
    assert found["schema"] == 1
    kinds = {"preset": str, "model": str, "task": str, "signature": str, "environment": dict, "document_ids": list}
    assert all(isinstance(found[name], kind) for name, kind in kinds.items())
    assert [list(found[group]) for group in ("methods", "controls")] == [
        ["lora", "soft-prompt"],
        ["zero-shot", "oracle"],
    ]
    for row in (*found["methods"].values(), *found["controls"].values()):
        assert row["parameters"] is None or {"total", "trainable", "frozen", "added"} == set(row["parameters"])
        assert all(set(row["rouge"][metric]) == {"mean", "low", "high"} for metric in METRICS)
        assert {"train", "evaluate", "total"} <= set(row["seconds"])
        assert {"allocated", "max_allocated", "reserved", "max_reserved"} <= set(row["memory_bytes"])
        assert all(
            number_or_none(value) for part in ("seconds", "memory_bytes", "spread") for value in row[part].values()
        )
        shape = [row["documents"]] * len(row["seeds"])
        assert all([len(line) for line in row["scores"][metric]] == shape for metric in METRICS)
        assert len(row["runs"]) == len(row["seeds"]) and row["documents"] == len(found["document_ids"])


def test_results_json_gives_scores_back_to_the_bit():
    found = json.loads(results_json.render(results_json.content(usual())))
    for row in usual().rows:
        group = found["controls" if row.control else "methods"]
        assert group[row.name]["scores"] == row.scores


def test_results_json_writes_null_for_what_was_not_measured_or_is_not_finite():
    one = run(
        "a", seconds={}, memory_bytes={}, adapter_bytes=None, epochs=[{"epoch": 0, "validation_loss": float("nan")}]
    )
    text = results_json.render(results_json.content(compared(one)))
    row = json.loads(text)["methods"]["a"]
    assert set(row["seconds"].values()) == set(row["memory_bytes"].values()) == {None}
    assert (
        row["adapter_bytes"]
        is row["trials"]
        is row["spread"]["rouge1"]
        is row["epochs"][0][0]["validation_loss"]
        is None
    )
    assert "NaN" not in text


def test_results_json_has_a_line_for_every_row_of_scores_and_no_foreign_character():
    lines = results_json.render(
        results_json.content(compared(run("a", seed=1), run("a", seed=2), description="\u202e\x1b"))
    ).splitlines()
    assert sum(line.count(",") >= 19 and line.strip().startswith("[0") for line in lines) == 6
    assert all(line.isascii() and plain(line) == line for line in lines)


def test_results_json_is_written_without_being_held_as_a_whole():
    rows = {name: [run(name, seed=seed, documents=400) for seed in range(40)] for name in ("a", "b")}
    content = results_json.content(compare(settings(), rows))
    size, longest = 0, 0
    for piece in results_json.pieces(content):
        size, longest = size + len(piece), max(longest, len(piece))
    assert size > 1_000_000 and longest < size / 100
    assert json.loads(results_json.render(content)) == json.loads(json.dumps(content))
