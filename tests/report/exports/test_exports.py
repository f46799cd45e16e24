"""A report's table as LaTeX, and its scores in long form, read back by pandas, pyarrow and LaTeX."""

import io
import json
import shutil
import subprocess

import pandas as pd
import pyarrow.parquet
import pytest
from factories import run, settings
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from bakeoff.cli import main
from bakeoff.config import project
from bakeoff.report import results_json
from bakeoff.report.comparison import compare
from bakeoff.report.exports import latex, results
from bakeoff.shipped import ROOT
from bakeoff.stats.intervals import letters

HOSTILE = r"""--e_vil% & $x$ #{}~^ \input{/etc/passwd} <b>|`'',, "[x]*\\"""
EXPECTED = (
    r"-{}-e\_vil\% \& \$x\$ \#\{\}\textasciitilde{}\textasciicircum{} \textbackslash{}input\{/etc/passwd\} "
    r"\textless{}b\textgreater{}\textbar\allowbreak{}\textasciigrave{}'{}',{}, \textquotedbl{}{[}x{]}{*}"
    r"\textbackslash{}\textbackslash{}"
)
PRINTED = ("textasciitilde", "textasciicircum", "textbackslash", "textless", "textgreater", "textbar", "allowbreak",
           "textasciigrave", "textquotedbl")  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """A function that writes the results.json of two seeds of three methods and a control: `path, comparison`."""

    def write(third="weak", change=lambda values: None):
        runs = {
            name: [run(name, mean, seed=seed) for seed in (1, 2)]
            for name, mean in (("strong", 0.6), ("equal", 0.6), (third, 0.1))
        }
        found = compare(settings(), {**runs, "lead-1": [run("lead-1", 0.2, control=True)]})
        values = json.loads(results_json.render(results_json.content(found)))
        change(values)
        (tmp_path / "results.json").write_text(json.dumps(values))
        return tmp_path / "results.json", found

    return write


def test_scores_in_long_form_come_back_exactly_from_csv_json_and_parquet(written, tmp_path, capsys):
    path, comparison = written()
    for kind in ("csv", "json", "parquet"):
        assert main(["export", str(path), "--format", kind, "--output", str(tmp_path / kind)]) == 0
    capsys.readouterr()
    frames = [
        pd.read_csv(tmp_path / "csv"),
        pd.DataFrame(json.loads((tmp_path / "json").read_text())),
        pyarrow.parquet.read_table(tmp_path / "parquet").to_pandas(),
    ]
    for frame in frames:
        assert list(frame.columns) == ["method", "seed", "document", "metric", "score"]
        assert len(frame) == (3 * 2 + 1) * 20 * 3
        for row in comparison.rows:
            for number, seed in enumerate(row.seeds):
                one = frame[(frame.method == row.name) & (frame.seed == seed) & (frame.metric == "rouge2")]
                assert dict(zip(one.document, one.score, strict=True)) == dict(
                    zip(comparison.document_ids, row.scores["rouge2"][number], strict=True)
                )


def test_names_that_pandas_takes_for_nothing_come_back_as_the_page_on_exports_reads_them(written, tmp_path):
    def renamed(values):
        values["methods"] = {**values["methods"], "null": values["methods"].pop("equal")}
        values["document_ids"] = [f"{number:03}" for number in range(19)] + ["NA"]

    path, _ = written(change=renamed)
    assert main(["export", str(path), "--format", "csv", "--output", str(tmp_path / "scores.csv")]) == 0
    [code] = [line for line in (ROOT / "docs" / "exports.md").read_text().splitlines() if "pd.read_csv(" in line]
    frame = eval(code.partition("= ")[2].replace('"scores.csv"', "file"), {"pd": pd, "file": tmp_path / "scores.csv"})
    assert {"null", "strong", "lead-1"} < set(frame.method) and {"NA", "000", "018"} < set(frame.document)
    assert frame.score.dtype == float


def test_a_further_metric_is_exported_and_a_score_that_was_not_measured_is_missing(written, capsys):
    def further(values):
        values["methods"]["equal"]["scores"]["chrf"] = [[55.5] * 19 + [None]] * 2

    path, _ = written(change=further)
    assert main(["export", str(path.parent), "--format", "csv"]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    found = frame[frame.metric == "chrf"]
    assert set(found.method) == {"equal"} and found.score.isna().sum() == 2 and found.score.max() == 55.5


def test_the_letters_of_the_latex_table_are_those_of_the_report(written):
    path, comparison = written()
    text = latex.render(results.read(path))
    for metric in ("rouge1", "rougeL"):
        assert results.read(path).letters(metric) == letters(comparison.alike(metric))
    [strong] = [line for line in text.splitlines() if line.startswith("strong &")]
    [weak] = [line for line in text.splitlines() if line.startswith("weak &")]
    assert strong.count(r"\textsuperscript{a}") == 3 and weak.count(r"\textsuperscript{b}") == 3
    assert text.index(r"\toprule") < text.index("strong &") < text.index("lead-1 &") < text.index(r"\bottomrule")
    assert text.count(r"\midrule") == 2 and r"rouge-score:0.1.2\textbar\allowbreak{}stemmer:yes" in text


def test_a_metric_stands_in_the_latex_table_as_in_the_report(written):
    def further(values):
        known = {"name": "copied", "label": "copied words, %", "better": "lower", "range": [0, 1]}
        values["metrics"] = {"copied": known}
        for row in values["methods"].values():
            row["scores"]["copied"] = [[0.5] * 20] * 2
            row["metrics"] = {"copied": {"mean": 0.5, "low": 0.4, "high": 0.6}}

    path, _ = written(change=further)
    text = latex.render(results.read(path), ["copied"])
    assert r"Method & copied words, \% & Trainable" in text and "strong & 50.00 [40.00, 60.00] &" in text


def test_without_tests_there_are_no_letters(written):
    path, _ = written(change=lambda values: values.update(pairs=[]))
    assert "superscript" not in latex.render(results.read(path))


def test_hostile_names_are_text_in_latex(written):
    path, _ = written(third=HOSTILE)
    text = latex.render(results.read(path))
    nodes, _, _ = LatexWalker(text).get_latex_nodes()  # raises where braces or environments are not closed
    assert [node.environmentname for node in nodes if isinstance(node, LatexEnvironmentNode)] == ["table"]
    [cell] = [line.split(" & $")[0] for line in text.splitlines() if "passwd" in line]
    name = latex.escape(HOSTILE)
    assert cell.startswith(name) and set(macros(LatexWalker(name).get_latex_nodes()[0])) <= {*PRINTED, *"%&$#_{}"}
    assert name == EXPECTED


PAPER = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["hostile", "quick", "zoo"])
def test_a_paper_with_the_table_is_set_by_latex(written, tmp_path, source):
    if shutil.which("pdflatex") is None:
        pytest.fail("no LaTeX found; type apt-get install texlive-latex-recommended", pytrace=False)
    kept = ROOT / "docs" / "reports" / source / "results.json"
    path = written(third=HOSTILE)[0] if source == "hostile" else kept
    (tmp_path / "paper.tex").write_text(PAPER % latex.render(results.read(path)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert found.returncode == 0, found.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF") and "Missing character" not in found.stdout
    assert "Overfull" not in found.stdout, "the table is wider than the page"


def macros(nodes):
    """Names of the macros of LaTeX."""
    return [node.macroname for node in nodes if hasattr(node, "macroname")]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["{path}", "--format", "parquet"], "add --output FILE.parquet"),
        (["quik", "--format", "csv"], "did you mean 'quick'?"),
        (["{path}", "--format", "latex", "--metric", "rouge9"], "did you mean 'rouge"),
        (["{path}", "--format", "csv", "--metric", "rouge1"], "csv has every metric"),
        (["{path}", "--format", "csv", "--output", "{path}/x"], "can't be written"),
    ],
)
def test_what_is_wrong_is_one_line(written, monkeypatch, tmp_path, capsys, arguments, expected):
    path, _ = written()
    (tmp_path / "reports" / "quick").mkdir(parents=True)
    (tmp_path / "reports" / "quick" / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "_root", None)
    assert main(["export", *(argument.format(path=path) for argument in arguments)]) == 4
    out, err = capsys.readouterr()
    assert expected in err and err.count("\n") == 1 and not out


def test_a_list_of_scores_that_is_too_short_is_named(written):
    path, _ = written(change=lambda values: values["methods"]["equal"]["scores"].update(rouge1=[[0.5]]))
    with pytest.raises(Exception, match=r"methods.equal.scores.rouge1.*2 lists of 20 scores"):
        results.read(path)
