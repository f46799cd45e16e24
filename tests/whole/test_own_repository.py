"""A repository of one's own, where pip has installed a wheel: from `bakeoff init` to a gate that turns red."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bakeoff.shipped import ROOT

pytestmark = pytest.mark.slow
TINY = """
[model]
name = "random"
[model.architecture]
model_type = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 512
vocab_size = 257
[task]
name = "notes.jsonl"
train = 16
validation = 2
test = 8
max_input_tokens = 96
max_target_tokens = 24
[training]
epochs = 12
batch_size = 4
micro_batch_size = 4
learning_rate = 1e-2
"""
SPLITS = ["train"] * 16 + ["validation"] * 2 + ["test"] * 8
NOTES = [
    {"document": f"Note {n} says {word}.", "summary": f"It is {word}.", "split": split}
    for n, (split, word) in enumerate(zip(SPLITS, ["fine", "fine", "late"] * 9, strict=False))
]
METHOD = """
from dataclasses import dataclass

from bakeoff import ParameterCounts


@dataclass(frozen=True)
class Mine:
    name = "mine"

    def attach(self, model, tokenizer):
        return model.requires_grad_(True)

    def expected_parameters(self, shapes):
        everything = {"total": shapes.total, "trainable": shapes.total, "frozen": 0}
        return ParameterCounts(**everything, tied=shapes.tied, tied_trainable=shapes.tied)
"""
THEIRS = """
import pytest


@pytest.fixture
def runs():
    return 3


@pytest.mark.parametrize("control", [1, 2])
def test_it(runs, control):
    assert runs > control
"""


def typed(folder, *command, code=0, **environment):
    """What a command prints. Fails where its exit code is another."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GITHUB_"))}
    found = subprocess.run([*map(str, command)], cwd=folder, env={**env, "HF_HUB_OFFLINE": "1", **environment},
                           capture_output=True, text=True, encoding="utf-8", timeout=300)  # fmt: skip
    assert found.returncode == code, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy, so that nothing is left in it."""
    away = shutil.ignore_patterns(".*", "reports", "build", "tests", "docs", "__pycache__", "*.egg-info")
    source = shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "bakeoff", ignore=away)
    place = tmp_path_factory.mktemp("wheel")
    typed(
        source,
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        place,
        ".",
    )
    [found] = place.glob("bakeoff-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of commands of a fresh environment with the wheel; the libraries are those of this environment."""
    env = tmp_path_factory.mktemp("env")
    typed(env, sys.executable, "-m", "venv", "--without-pip", env)
    bin = env / ("Scripts" if os.name == "nt" else "bin")
    library = typed(env, bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(library) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    typed(env, sys.executable, "-m", "pip", "--python", bin / "python", "install", "--no-deps", "--no-index", wheel)
    return bin


@pytest.fixture(scope="module")
def repository(installed, tmp_path_factory, furnished):
    """A repository with tests of its own, after `bakeoff init`."""
    folder = tmp_path_factory.mktemp("repository")
    furnished(folder / ".bakeoff")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_training.py").write_text(THEIRS)
    assert "2 passed" in typed(folder, installed / "python", "-m", "pytest", "-p", "no:cacheprovider")
    assert "wrote  conftest.py" in typed(folder, installed / "bakeoff", "init")
    (folder / "bench" / "presets" / "tiny.toml").write_text(TINY)
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in NOTES))
    (folder / "methods").mkdir()
    (folder / "methods" / "mine.py").write_text(METHOD)
    return folder


@pytest.fixture
def bench(installed, repository):
    """Types `pytest bench/ ...` there."""
    python = (installed / "python", "-m", "pytest", "-p", "no:cacheprovider", "bench/")
    return lambda *arguments, code=0: typed(repository, *python, *arguments, code=code)


def package(installed):
    """The files of the installed package, without Python's own caches, and when each was written."""
    [folder] = installed.parent.rglob("site-packages/bakeoff")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


def shown(path):
    """Where a file of the checkout stands in a wheel."""
    return f"bakeoff/shipped/{path}" if path.startswith(("bench/", "methods/")) else path


def test_the_wheel_holds_every_file_that_ships(wheel):
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ships = [path for path in kept if path.startswith(("bakeoff/", "bench/", "methods/"))]
    away = (".trials.json", ".seeds.json")  # what tuning and lab/ keep beside presets and baselines
    held = {path for path in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in path}
    assert held == {shown(path) for path in ships if not path.endswith(away)}


def test_the_metadata_names_dependencies_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    text = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "bakeoff = bakeoff.__main__:run" in text["entry_points.txt"] and "pytest11" not in text["entry_points.txt"]
    wanted = {Requirement(line).name for line in re.findall(r"^Requires-Dist: (.+)$", text["METADATA"], re.MULTILINE)}
    assert {"torch", "transformers", "peft", "pytest", "ruff"} <= wanted


def test_both_commands_are_one(installed, tmp_path):
    one = typed(tmp_path, installed / "bakeoff", "--help")
    assert one == typed(tmp_path, installed / "python", "-m", "bakeoff", "--help")
    assert all(f"    {name}" in one for name in ("init", "assets", "parameters", "score", "compare", "tune"))


def test_the_specification_passes_and_reports_there(bench, installed, repository):
    before = package(installed)
    out = bench("--preset", "smoke", "--method", "all", "-v")
    assert "bench/test_training.py::test_the_loss_fell[lora]" in out and "test_the_loss_fell[mine]" in out
    results = json.loads((repository / "reports" / "smoke" / "results.json").read_text())
    assert {"full", "last-layer", "lora", "mine", "soft-prompt"} <= set(results["methods"])
    assert list(repository.glob(".bakeoff/runs/*/result.json"))
    assert package(installed) == before


def test_the_gate_is_accepted_passes_and_turns_red_beside_a_floor(bench, repository):
    gate, asked = ("-k", "test_gate"), ("--preset", "tiny", "--method", "mine")
    out = bench(*gate, *asked, "--seeds", "1,2,3,4,5", "--update-baseline", code=1)
    assert "baseline written: bench/baselines/tiny.json: mine (5 seeds)" in out
    assert "3 passed" in bench(*gate, *asked, "--seeds", "1", "--gate")
    floors = '[tiny]\nmodel = "random"\ntask = "notes.jsonl"\n[tiny.mine]\nrouge1 = 20.0\n'
    (repository / "bench" / "thresholds.toml").write_text(floors)
    harm = ("--seeds", "1", "--set", "training.learning_rate=0")
    out = bench("-k", "test_gate or floor", *asked, *harm, "--gate", code=1)
    assert re.search(r"^mine on ROUGE-1: regressed: ", out, re.MULTILINE) and "4 failed" in out
    # pytest shows both sides of an assertion of the specification that is imported from the package.
    assert re.search(r"^E +assert \(100 \* .*\) >= 20\.0", out, re.MULTILINE)


def test_the_repository_s_other_tests_run_as_before(installed, repository):
    python = (installed / "python", "-m", "pytest", "-p", "no:cacheprovider")
    for arguments in ((), (".",), ("tests",)):
        assert "2 passed" in typed(repository, *python, *arguments)
    assert "bakeoff: bench/ was left out" in typed(repository, *python)
