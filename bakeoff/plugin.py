"""pytest options, fixtures and hooks; what they do is done elsewhere."""

import contextlib
import gc
import os

import pytest

from bakeoff.config import project

pytest.register_assert_rewrite("bakeoff.shipped.bench")  # a repository of one's own imports the specification


def pytest_addoption(parser):
    """One group of options; none of them imports torch."""
    group = parser.getgroup("bakeoff", "Bakeoff: compare fine-tuning methods (pytest bench/)")
    add = group.addoption
    add("--method", action="append", default=[], metavar="NAME|FILE.py|GROUP",
        help="methods to compare, with commas or repeated; NAME:KEY=VALUE is a row of its own; groups: all (default), "
        "peft, every, reference. Controls take part.")  # fmt: skip
    add("--preset", default="quick", metavar="NAME|FILE.toml", help="named settings; default quick")
    add("--model", default="", metavar="NAME|HUB-ID|FOLDER|FILE.gguf", help="base model instead of the preset's")
    add("--task", default="", metavar="NAME|FILE", help="documents instead of the preset's: a known task, a hub "
        "data set, or a .jsonl, .json, .csv, .tsv or .parquet file (or one as .gz) with the columns document, summary, "
        "split")  # fmt: skip
    add("--seeds", default="", metavar="42,43,44", help="one run of every method for each")
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="change a setting, e.g. training.learning_rate=1e-3 or methods.lora.rank=8; repeatable")  # fmt: skip
    add("--metric", action="append", default=[], metavar="NAME|FILE.py",
        help="a metric beside ROUGE and those of the preset; NAME:KEY=VALUE sets it up; repeatable")  # fmt: skip
    add("--fresh", action="store_true", help="train again what is finished")
    add("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    add("--run-timeout", type=_seconds, default=0.0, metavar="SECONDS", help="end a run that takes longer; "
        "its stack is in the report, what it finished is kept; default 0: never")  # fmt: skip
    add("--executor", default="local", metavar="NAME", help="where runs are made: local (default), ray, "
        "ray://HOST:PORT or slurm")  # fmt: skip
    add("--parallel", type=_count, default=0, metavar="N", help="runs at a time; default: one on each visible GPU, "
        "one on a CPU, where N share its processors")  # fmt: skip
    add("--report-dir", default="", metavar="FOLDER", help="where the report goes; default reports/PRESET")
    add("--track", action="append", default=[], metavar="NAME", help="send losses and scores to mlflow, tensorboard, "
        "wandb or trackio; default: nowhere")  # fmt: skip
    add("--gate", action="store_true", help="fail where a method got worse than its baseline")
    add("--gate-strict", action="store_true", help="--gate, and fail where that can't be told")
    add("--update-baseline", action="store_true", help="accept what is measured, of five seeds or more; fails once")
    add("--baseline", default="", metavar="FILE", help="accepted scores; default bench/baselines/PRESET.json")
    add("--trust-remote-code", action="store_true", help="let a hub model run Python code of its own")


def _seconds(text):
    """Seconds from 0 on."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def _count(text):
    """A whole number from 1 on."""
    if not text.isdecimal() or not 0 < int(text) < 1e5:
        raise ValueError
    return int(text)


def pytest_configure(config):
    """pytest's rootdir is the project."""
    project.use(config.rootpath)
    config.option.store = config.option.store or str(project.own(".bakeoff"))


def pytest_sessionstart(session):
    """Checks the usage and plans the runs, once, when bench/ is among what was selected."""
    config = session.config
    config.bakeoff = config.bakeoff_gate = None
    if _selected(config):
        from bakeoff.core.errors import UsageError, lacking

        shared = getattr(config, "workerinput", {}).get("bakeoff", "")
        try:
            from bakeoff.session.start import keep, start, stop_on_sigterm

            config.add_cleanup(stop_on_sigterm())
            config.bakeoff = start(config.option, *_terminal(config), shared)
            config.add_cleanup(config.bakeoff.close)
            config.bakeoff_gate = keep(config.option, config.bakeoff)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        except ModuleNotFoundError as error:
            raise pytest.UsageError(str(lacking(error))) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tells a worker of `pytest -n N` what was planned, so that it neither checks nor makes anything again."""
    if getattr(node.config, "bakeoff", None):
        from bakeoff.session.start import share

        node.workerinput["bakeoff"] = share(node.config.bakeoff)


def _selected(config) -> bool:
    """Whether bench/, or something in it, was named. A folder above it means the repository's other tests."""
    bench = project.own("bench")
    here = config.invocation_params.dir
    paths = [(here / str(argument).split("::")[0]).resolve() for argument in config.args]
    return any(path.is_relative_to(bench) for path in paths)


def _asks(fixturenames) -> bool:
    """Whether a test asks for a run. A repository's other tests may have fixtures of their own called `runs`."""
    return not {"bakeoff", "gate_verdict"}.isdisjoint(fixturenames)


def _terminal(config):
    """The real terminal under pytest's capture, whether it is one, and how to start a fresh line on it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return None, False, lambda: None
    capture = config.pluginmanager.get_plugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled if capture else contextlib.nullcontext

    def newline():
        with uncaptured():
            reporter.ensure_newline()
            reporter.flush()

    # While a test runs, the file descriptor that the reporter writes to is the capture's: keep a copy of the real one.
    with uncaptured():
        try:
            file = os.fdopen(os.dup(reporter._tw._file.fileno()), "w", encoding="utf-8", errors="replace")
        except (OSError, ValueError, AttributeError):  # not a file of the system's
            file = reporter._tw._file
    return file, bool(reporter.isatty), newline


def pytest_generate_tests(metafunc):
    """Parametrizes by method what asks for `runs`, by control what asks for `control_run`, the gate by verdict."""
    if not _asks(metafunc.fixturenames):
        return
    if "gate_verdict" in metafunc.fixturenames and (keeper := metafunc.config.bakeoff_gate):
        metafunc.parametrize("gate_verdict", keeper.cases(), indirect=True, scope="session")
    for fixture, control in (("runs", False), ("control_run", True)):
        if fixture in metafunc.fixturenames:
            bakeoff = metafunc.config.bakeoff
            names = [entry.name for entry in bakeoff.plan.entries if entry.control == control] if bakeoff else []
            metafunc.parametrize(fixture, names, indirect=True, scope="session")


def _asked_by(item) -> list[str]:
    """The methods and controls whose runs a test asks for by name."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [params[name] for name in ("runs", "control_run") if isinstance(params.get(name), str)]


def pytest_collection_modifyitems(config, items):
    """Without --gate there is no verdict to test; where bench/ was not named, no run."""
    asking = [item for item in items if _asks(getattr(item, "fixturenames", ()))]
    config.bakeoff_left_out = bool(asking) and config.bakeoff is None
    if config.bakeoff is not None:
        asking = [] if config.bakeoff_gate else [item for item in asking if "gate_verdict" in item.fixturenames]
    if gone := set(asking):
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=asking)


def pytest_collection_finish(session):
    """Says which runs will be asked for, so that several can be made at once."""
    bakeoff = getattr(session.config, "bakeoff", None)
    if bakeoff is not None:
        bakeoff.expected = list(dict.fromkeys(name for item in session.items for name in _asked_by(item)))


@pytest.fixture(scope="session")
def bakeoff(request):
    """The session: `bakeoff.runs("zero-shot")` are finished runs, made at the first call."""
    if request.config.bakeoff is None:
        pytest.fail("name bench/ on the command line: pytest bench/ --method all", pytrace=False)
    return request.config.bakeoff


def _finished(bakeoff, method):
    from bakeoff.core.errors import one_line
    from bakeoff.session.worker import Died

    try:
        return bakeoff.runs(method)
    except Died as died:
        cause = one_line(f"{method}: the run is dead: {died}")
    return pytest.fail(cause, pytrace=False)  # outside of the except: pytest would show what Died quotes as it is


@pytest.fixture(scope="session")
def runs(request, bakeoff):
    """The finished runs of one trained method, one a seed: `def test_it(runs): for run in runs: ...`"""
    return _finished(bakeoff, request.param)


@pytest.fixture(scope="session")
def control(bakeoff):
    """The finished run of a control: `control("lead-1").scores`."""
    return lambda name: _finished(bakeoff, name)[0]


@pytest.fixture(scope="session")
def control_run(request, bakeoff):
    """The finished run of each control that rides along: `def test_it(control_run): ...`"""
    return _finished(bakeoff, request.param)[0]


@pytest.fixture(scope="session")
def gate_verdict(request):
    """One verdict of the gate: `gate_verdict.failure` is empty where it is green, `gate_verdict.figures`."""
    return request.config.bakeoff_gate.check(request.param)


@pytest.fixture
def floors(runs, bakeoff):
    """The floors of this method under this preset, from bench/thresholds.toml; skips where there are none."""
    from bakeoff.session.start import floors

    found = floors(bakeoff.plan.settings, runs[0].spec["method"])
    if found is None:
        pytest.skip(f"bench/thresholds.toml has no floor for {bakeoff.plan.settings.preset}/{runs[0].spec['method']}")
    return found


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Writes the report and prints its table; when it was stopped, says what is kept."""
    if getattr(config, "bakeoff_left_out", False):
        terminalreporter.write_line("bakeoff: bench/ was left out; to run it, name it: pytest bench/ --method all")
    if getattr(config, "bakeoff", None) is None or config.option.collectonly or hasattr(config, "workerinput"):
        return
    if exitstatus == pytest.ExitCode.INTERRUPTED:
        terminalreporter.write_line(config.bakeoff.interrupted())
        return
    from bakeoff.session.start import report_folder

    folder = report_folder(config.option, config.bakeoff.plan.settings)
    try:
        text = config.bakeoff_gate.report(folder) if config.bakeoff_gate else config.bakeoff.report(folder)
    except OSError as error:
        text = f"ERROR: {folder}: the report can't be written: {error.strerror}; type --report-dir FOLDER"
    if text:
        terminalreporter.section("bakeoff")
        terminalreporter.write_line(text)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config):
    """Spares the collections of garbage that pytest makes at its end: seconds, where all that is left is to stop."""
    if getattr(config, "bakeoff", None) is not None and not hasattr(config, "workerinput"):
        gc.freeze()
