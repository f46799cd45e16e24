"""Where things are: the project first, what ships behind it, which says nothing of a preset of one's own."""

import json
import shutil

import pytest

from bakeoff.cli import main
from bakeoff.config import presets, project
from bakeoff.core.errors import UsageError
from bakeoff.gate import seed_variance
from bakeoff.methods import registry, selection
from bakeoff.report import published
from bakeoff.session import start, worker
from bakeoff.shipped import ROOT

METHOD = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Mine:
    name = "NAME"

    def attach(self, model, tokenizer):
        return model

    def expected_parameters(self, shapes):
        return None
"""
FLOORS = '[PRESET]\nmodel = "smollm2-135m"\ntask = "aclsum/outcome"\n[PRESET.lora]\nrouge1 = 1.0\n'


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project of one's own, for this test."""
    monkeypatch.setattr(project, "_root", None)
    (tmp_path / "bench" / "presets").mkdir(parents=True)
    project.use(tmp_path)
    return tmp_path


def own_preset(home, name):
    shutil.copy(ROOT / "bench" / "presets" / "ci.toml", home / "bench" / "presets" / f"{name}.toml")


def own_method(home, file, name):
    (home / "methods").mkdir(exist_ok=True)
    (home / "methods" / file).write_text(METHOD.replace("NAME", name), encoding="utf-8")


def test_a_folder_s_project_is_its_nearest_parent_with_a_bench(tmp_path):
    (tmp_path / "a" / "bench").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    assert project.around(tmp_path / "a" / "b" / "c") == tmp_path / "a"
    assert project.around(tmp_path / "a") == tmp_path / "a"


def test_a_working_directory_that_was_deleted_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["assets"]) == 4
    assert capsys.readouterr().err == "error: the working directory was deleted; change to a folder that exists\n"


def test_presets_are_those_of_the_project_and_those_that_ship(home):
    own_preset(home, "evening")
    assert presets.preset_names() == ["ci", "evening", "quick", "reference", "smoke", "zoo"]
    assert presets.preset_path("evening") == home / "bench" / "presets" / "evening.toml"
    assert presets.preset_path("smoke") == ROOT / "bench" / "presets" / "smoke.toml"


def test_an_own_preset_replaces_the_one_that_ships(home):
    own_preset(home, "quick")
    assert presets.load("quick").source == str(home / "bench" / "presets" / "quick.toml")


def test_methods_are_those_of_the_project_and_those_that_ship(home):
    own_method(home, "norms.py", "norms")
    (home / "methods" / "_helpers.py").write_text("raise SystemExit\n")
    known = registry.known_methods()
    assert known["norms"].file == home / "methods" / "norms.py"
    assert known["lora"].file == ROOT / "methods" / "lora.py"


def test_an_own_method_replaces_the_one_of_its_name_in_whatever_file(home):
    own_method(home, "a.py", "lora")
    assert [entry.file for entry in selection.select(["lora"]) if not entry.control] == [home / "methods" / "a.py"]
    assert list(registry.known_methods()).count("lora") == 1


def test_two_own_methods_of_one_name_are_refused(home):
    own_method(home, "a.py", "norms")
    own_method(home, "b.py", "norms")
    with pytest.raises(UsageError, match=r"b\.py: .*a\.py has a method named 'norms', too; rename one"):
        selection.select(["all"])


def test_own_floors_replace_those_that_ship_preset_by_preset(home):
    assert start.floors(presets.load("ci"), "lora")["rouge1"] == 28.0
    (home / "bench" / "thresholds.toml").write_text(FLOORS.replace("PRESET", "ci"))
    assert start.floors(presets.load("ci"), "lora") == {"rouge1": 1.0}
    assert start.floors(presets.load("quick"), "lora")["rouge1"] == 36.0


def test_what_ships_says_nothing_of_an_own_preset_of_the_same_name(home):
    shipped = presets.load("ci")
    assert seed_variance.load(shipped, seed_signature()) and published.beside(presets.load("reference"))
    own_preset(home, "ci")
    shutil.copy(ROOT / "bench" / "presets" / "reference.toml", home / "bench" / "presets")
    own = presets.load("ci")
    assert start.floors(own, "lora") is None
    assert seed_variance.load(own, seed_signature()) == {}
    assert published.beside(presets.load("reference")) == []


def seed_signature():
    """The signature of the calibration that ships."""
    return json.loads((ROOT / "bench" / "baselines" / "ci.calibration.json").read_text())["signature"]


@pytest.mark.parametrize("update, place", [(False, ROOT), (True, None)])
def test_a_baseline_that_ships_is_read_and_never_written(home, update, place):
    options = type("Options", (), {"baseline": "", "update_baseline": update})
    expected = (place or home) / "bench" / "baselines" / "ci.json"
    assert start.baseline_path(options, presets.load("ci")) == expected


def test_a_package_inside_of_the_project_ships_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(project.shipped, "ROOT", tmp_path / ".venv" / "bakeoff" / "shipped")
    monkeypatch.setattr(project, "_root", tmp_path)
    assert project.ships(tmp_path / ".venv" / "bakeoff" / "shipped" / "bench" / "presets" / "ci.toml")
    assert not project.ships(tmp_path / "bench" / "presets" / "ci.toml")


def where(emit):
    """A job: the project that its process knows."""
    return str(project.root())


def test_a_worker_knows_the_project(home, tmp_path):
    assert worker.call(where, log=tmp_path / "log") == str(home)
