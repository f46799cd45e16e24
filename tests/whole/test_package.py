"""What is declared of the package, and how its plugin lives in a repository of somebody else's."""

import os
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bakeoff.shipped import ROOT
from bakeoff.starter.repository import init

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {
    "requirements.txt": PROJECT["dependencies"],
    "requirements-dev.txt": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]],
}


def pins(name):
    """Version by package."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "==" in line]
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


@pytest.mark.parametrize("name", DECLARED)
def test_each_dependency_is_pinned_within_its_range(name):
    found = pins(name)
    outside = [
        f"{wanted}: {found.get(canonicalize_name(wanted.name))}"
        for wanted in map(Requirement, DECLARED[name])
        if not wanted.specifier.contains(found.get(canonicalize_name(wanted.name), "0"))
    ]
    assert outside == [], "type make requirements"


def test_what_is_pinned_for_users_is_pinned_for_developers():
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()


def test_every_dependency_has_both_ends_of_a_range():
    for wanted in map(Requirement, DECLARED["requirements-dev.txt"]):
        assert {part.operator for part in wanted.specifier} == {">=", "<"}, str(wanted)


THEIRS = """
import pytest


@pytest.fixture
def runs():
    return 3


@pytest.mark.parametrize("control", [1, 2])
def test_it(runs, control):
    assert runs > control
"""
WATCH = """
def pytest_unconfigure(config):
    names = sorted(name for name, plugin in config.pluginmanager.list_name_plugin() if plugin is not None)
    print("plugins at the end:", "hypothesispytest" in names, "benchmark" in names)
"""


@pytest.fixture
def typed(tmp_path):
    """What `pytest ...` prints in a repository after `bakeoff init`, beside tests with names that Bakeoff uses, too."""
    init(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_training.py").write_text(THEIRS)
    with open(tmp_path / "conftest.py", "a") as file:
        file.write(WATCH)

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        found = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
                               capture_output=True, text=True, encoding="utf-8")  # fmt: skip
        return found.returncode, found.stdout + found.stderr

    return run


@pytest.mark.parametrize("arguments", [(), (".",)])
def test_a_repository_s_other_tests_run_where_bench_is_not_named(typed, arguments):
    code, out = typed(*arguments)
    assert code == 0 and "2 passed" in out
    assert "bakeoff: bench/ was left out; to run it, name it: pytest bench/" in out


def test_every_plugin_of_the_session_stays_registered(typed):
    assert "plugins at the end: True True" in typed("tests")[1]


def test_a_preset_of_the_repository_is_checked_before_the_first_run(typed, tmp_path):
    (tmp_path / "bench" / "presets" / "mine.toml").write_text("[training]\nepochs = -1\n")
    code, out = typed("bench/", "--preset", "mine")
    assert code == 4 and f"ERROR: {tmp_path / 'bench' / 'presets' / 'mine.toml'}:2: " in out
