"""What the README says is so."""

import re

import pytest

from bakeoff.config import presets
from bakeoff.config.schema import TaskSettings
from bakeoff.data import tasks
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import configure, load_file
from bakeoff.shipped import ROOT
from lab import readme

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language):
    """The README's one block in a language, fences excluded."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found


def test_the_method_of_the_readme_trains_what_it_says(tiny, tmp_path):
    (tmp_path / "norms.py").write_text(block("python"))
    [entry] = load_file(tmp_path / "norms.py")
    method, recipe = configure(entry, presets.load("smoke"))
    model, tokenizer = tiny()
    shapes = shapes_of(model)
    assert count(method.attach(model, tokenizer), shapes) == method.expected_parameters(shapes)
    assert method.expected_parameters(shapes).trainable == 5 * 32
    assert recipe.learning_rate == 3e-3


def test_the_task_of_the_readme_is_read(tmp_path):
    (tmp_path / "bread.jsonl").write_text(block("json"))
    task = tasks.load(TaskSettings(name=str(tmp_path / "bread.jsonl"), train=1, validation=1, test=1))
    assert task.examples.test[0].summary == "Bake for 40 minutes."


def test_the_preset_of_the_readme_is_read(tmp_path):
    (tmp_path / "evening.toml").write_text(block("toml"))
    found = presets.load(str(tmp_path / "evening.toml"))
    assert found.seeds == (42, 43) and found.methods["lora"]["rank"] == 32 and found.preset == "evening"


def test_every_option_that_the_readme_names_exists():
    known = set(re.findall(r'"(--[a-z-]+)"', "".join(p.read_text() for p in (ROOT / "bakeoff").glob("*.py"))))
    own = {"--method", "--preset", "--model", "--task", "--seeds", "--set", "--fresh", "--report-dir"}
    table = re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE)
    assert own <= set(table) <= known


def test_the_list_of_rooms_is_that_of_the_code():
    assert readme.between(README, "rooms", readme.rooms()) == README, "type make readme"


def test_the_table_is_that_of_the_report_that_is_kept():
    assert readme.between(README, "table: docs/reports/quick", readme.table()) == README, "type make readme"


def test_a_table_is_the_report_s_section(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("# Bake-off\n\n## Comparison\n\n| a |\n\n## Controls\n\n| b |\n")
    monkeypatch.setattr(readme, "REPORT", tmp_path / "report.md")
    assert readme.table().startswith("| a |\n\nFrom") and "| b |" not in readme.table()


@pytest.mark.parametrize("path", re.findall(r"`((?:bench|methods|bakeoff|lab)/[\w./-]*\w\.\w+)`", README))
def test_files_that_the_readme_names_are_there(path):
    assert (ROOT / path).is_file()


def test_the_make_targets_of_the_first_page_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"bench", "test", "lint", "tune", "readme"} <= targets
