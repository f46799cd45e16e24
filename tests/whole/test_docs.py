"""What README and docs/ say is so: their examples are read, their commands are valid, their files are there."""

import argparse
import dataclasses
import inspect
import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from bakeoff import cli, plugin
from bakeoff.config import presets, project
from bakeoff.config.schema import SECTIONS, ScoringSettings, Settings, TaskSettings
from bakeoff.data import tasks
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import load_file
from bakeoff.methods.selection import configure
from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring import registry
from bakeoff.scoring.compute import beside
from bakeoff.session import plan
from bakeoff.shipped import ROOT
from bakeoff.starter import repository
from lab import readme
from lab.gpu import measure as gpu

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "docs" / "adr").glob("*.md"))]  # fmt: skip
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
README = PAGES["README.md"]
ELSEWHERE = ("git ", "python -m venv ", "pip install ", "pip wheel ", "python -m pip ")
"""How commands begin that belong to other programs."""


def blocks(language):
    """(page, text) of every fenced block in a language, fences excluded."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(page, text) for page, body in PAGES.items() for found, text in fence.findall(body) if found == language]


def commands():
    """(page, command) of every line in a fenced block without a language, comments excluded."""
    lines = [(page, line) for page, text in blocks("") for line in text.splitlines()]
    return [(page, re.sub(r"\s+# .*", "", line)) for page, line in lines if line.strip()]


def backticked(pattern):
    """Every text between backticks that is like `pattern`, once."""
    return sorted({found for body in PAGES.values() for found in re.findall(f"`({pattern})`", body)})


def named(language):
    """The blocks of a language that begin with the name of their file, by that name."""
    return {text.partition("\n")[0].removeprefix("# "): text for _, text in blocks(language)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository of one's own as `bakeoff init` leaves it, with every file that the pages show."""
    repository.init(tmp_path)
    for name, text in {**named("python"), **named("toml")}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "_root", tmp_path)
    return tmp_path


def bake_off(words):
    """The options of `pytest bench/ ...` as the plugin declares them."""
    options = argparse.ArgumentParser(exit_on_error=False)
    options.add_argument("paths", nargs="+")
    options.add_argument("-n")
    plugin.pytest_addoption(SimpleNamespace(getgroup=lambda *_: SimpleNamespace(addoption=options.add_argument)))
    return options.parse_args(words)


def declared():
    """Every option of a bake-off."""
    names = []
    group = SimpleNamespace(addoption=lambda name, **_: names.append(name))
    plugin.pytest_addoption(SimpleNamespace(getgroup=lambda *_: group))
    return names


TARGETS = re.findall(r"^([\w.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_is_one_that_can_be_typed(page, command, folder):
    command = re.sub(r"^\.venv/bin/|^\.venv/bin/python -m (?=pytest)", "", command)
    program, *words = shlex.split(command)
    if program == "make":
        assert set(words) <= set(TARGETS)
    elif command.startswith(("python -m bakeoff ", "bakeoff ")):
        cli.parser().parse_args(words[2:] if program == "python" else words)
    elif command.startswith("python -m lab.gpu"):
        gpu.parser().parse_args(words[2:])
    elif "bench/" in words:
        options = bake_off(words[words.index("bench/") :])
        chosen = presets.load(options.preset, model=options.model, task=options.task, seeds=options.seeds,
                              changes=options.changes)  # fmt: skip
        assert plan.configured(chosen, options.method or ["all"])
    else:
        assert command.startswith((*ELSEWHERE, "python -m pytest tests", ".ci/run"))


METRICS = {"has_number.py"}
"""Examples of a metric; the other files of Python are methods."""


@pytest.mark.parametrize("name", METRICS)
def test_an_example_of_a_metric_scores_what_it_says(name, folder):
    scoring = ScoringSettings(metrics=(str(folder / name),))
    [metric] = registry.load(Settings(scoring=scoring))
    texts = ["It gains 7 points.", "It gains a lot."]
    found = beside([metric], {"lora": [[Prediction(text, "", "", text) for text in texts]]}, texts)
    assert found.values["lora"][metric.name] == [[1.0, 0.0]] and not found.failures


def test_an_example_of_a_study_has_the_one_function(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    [name] = [name for name in named("python") if name.startswith("lab/")]
    example = runpy.run_path(str(folder / name))
    assert list(inspect.signature(example["study"]).parameters) == ["runs"]


METHODS = sorted({name for name in named("python") if not name.startswith(("test_", "lab/"))} - METRICS)


@pytest.mark.parametrize("name", METHODS)
def test_an_example_of_a_method_trains_what_it_says(name, folder, tiny):
    [entry] = load_file(folder / name)
    method, recipe = configure(entry, presets.load("smoke"))
    if entry.control:
        example = SimpleNamespace(sentences=["Short.", "A longer one."])
        assert method.summarise(SimpleNamespace(test=[example])) == ["A longer one."]
        return
    model, tokenizer = tiny()
    shapes = shapes_of(model)
    expected = method.expected_parameters(shapes)
    assert count(method.attach(model, tokenizer), shapes) == expected
    assert 0 < expected.trainable < 1000 and recipe.learning_rate == method.training["learning_rate"]


@pytest.mark.parametrize(("page", "rows"), blocks("json"))
def test_an_example_of_a_task_is_read(page, rows, tmp_path):
    (tmp_path / "bread.jsonl").write_text(rows)
    task = tasks.load(TaskSettings(name=str(tmp_path / "bread.jsonl"), train=1, validation=1, test=1))
    assert task.examples.test[0].summary == "Bake for 40 minutes."


@pytest.mark.parametrize("name", named("toml"))
def test_an_example_of_a_preset_is_read(name, folder):
    assert presets.load(name).preset == Path(name).stem


def test_the_command_line_page_lists_every_option_of_a_bake_off():
    assert sorted(re.findall(r"^\| `(--[a-z-]+)", PAGES["docs/command-line.md"], re.MULTILINE)) == sorted(declared())


@pytest.mark.parametrize(("path", "mark", "make"), readme.WRITTEN)
def test_a_generated_part_is_that_of_the_code(path, mark, make):
    text = path.read_text(encoding="utf-8")
    assert readme.between(text, mark, make()) == text, "type make readme"


def test_the_results_lack_no_row_without_a_word(tmp_path, monkeypatch):
    text = readme.REPORT.read_text(encoding="utf-8")
    (tmp_path / "report.md").write_text(text.replace("| training, s ", "| seconds "))
    monkeypatch.setattr(readme, "REPORT", tmp_path / "report.md")
    with pytest.raises(ValueError, match="training, s"):
        readme.results()


def test_the_results_hold_no_figure_that_was_not_measured():
    assert "not measured" not in readme.results()


@pytest.mark.parametrize("path", backticked(r"(?:bench|methods|bakeoff|lab|tests|docs|\.github)/[a-z\d_./-]*"))
def test_files_and_folders_that_a_page_names_are_there(path, folder):
    assert any((root / path).is_dir() if path.endswith("/") else (root / path).is_file() for root in (ROOT, folder))


@pytest.mark.parametrize("key", backticked(rf"(?:{'|'.join(SECTIONS)})\.\w+(?: = [^`]*)?"))
def test_settings_that_a_page_names_exist(key):
    section, name = key.partition(" ")[0].split(".")
    assert name in {field.name for field in dataclasses.fields(SECTIONS[section])}


@pytest.mark.parametrize("target", backticked(r"make [a-z]+"))
def test_make_targets_that_a_page_names_exist(target):
    assert target.removeprefix("make ") in TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_of_the_site_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGES[page])
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_every_promise_names_a_test():
    rows = re.findall(r"^\| ([A-Z][^|]*) \| ([^|]*) \|$", PAGES["docs/promises.md"], re.MULTILINE)
    assert len(rows) > 20 and [promise for promise, held in rows if not re.search(r"`(tests|bench)/", held)] == []


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 165


def test_the_architecture_page_names_the_folders_that_are_hashed():
    text = PAGES["docs/architecture.md"].partition("## Fingerprint")[2].partition("(`WAY`")[0]
    assert tuple(re.findall(r"`(\w+)/`", text)) == plan.WAY
