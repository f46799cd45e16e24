"""Tuning: what is tried, how a grid grows, as many trials for every method, and a record that nothing repeats."""

import itertools
import json
import math
import shutil
import sys
import threading
from argparse import Namespace
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from bakeoff.cli import main
from bakeoff.config import project
from bakeoff.config.presets import load
from bakeoff.core.errors import UsageError
from bakeoff.methods.selection import select
from bakeoff.report.plots import tuning as plot
from bakeoff.report.tuning import record, table
from bakeoff.report.tuning.record import Record, Trial
from bakeoff.session import grid, search, start, tuning, worker
from bakeoff.session.search import GridSearch, Point
from bakeoff.session.session import Session
from bakeoff.shipped import ROOT

QUICK = json.loads((ROOT / "bench" / "presets" / "quick.trials.json").read_text())["trials"]
RATES = [1e-3, 3e-3, 9e-3]


def by(loss):
    """A measure that trains nothing: the loss of a trial is a function of its settings."""
    return lambda points: [Trial(point.method, point.settings, loss(point.settings)) for point in points]


def bowl(**best):
    """A measure whose loss is lowest where each method's learning rate is its `best`; None: it diverges."""

    def loss(point):
        goal = best[point.method]
        return None if goal is None else math.log(point.settings["learning_rate"] / goal) ** 2

    return lambda points: [Trial(point.method, point.settings, loss(point)) for point in points]


def grown(measure, permitted=lambda point: True, **grids):
    """The finished search over grids of learning rates."""
    found = GridSearch({name: {"learning_rate": values} for name, values in grids.items()}, measure, permitted)
    found.run()
    return found


def rates(found, name):
    return [trial.settings["learning_rate"] for trial in found.trials[name]]


def test_a_best_value_inside_its_grid_ends_the_search():
    found = grown(bowl(a=3e-3, b=2.5e-3), a=RATES, b=RATES)
    assert rates(found, "a") == rates(found, "b") == RATES and tuning.edges(found, "a") == []


def test_a_grid_grows_where_its_best_is_at_an_edge_and_the_others_become_finer():
    found = grown(bowl(a=3e-2, b=2.9e-3), a=RATES, b=RATES)
    assert rates(found, "a") == [*RATES, 0.027, 0.081]
    assert rates(found, "b") == [*RATES, 0.00173, 0.00228] and tuning.edges(found, "a") == []


def test_the_value_between_lies_at_the_geometric_mean_with_the_better_neighbour():
    found = grown(bowl(a=1.0, b=4e-3), a=RATES, b=RATES)
    assert rates(found, "b")[3] == grid.tidy(math.sqrt(3e-3 * 9e-3))


def test_a_grid_grows_three_times_at_most_and_a_note_says_so():
    found = grown(bowl(a=1.0, b=1e-7), a=RATES, b=RATES)
    assert rates(found, "a") == [*RATES, 0.027, 0.081, 0.243]
    assert rates(found, "b") == [*RATES, 0.000333, 0.000111, 3.7e-05]
    [note] = tuning.edges(found, "a")
    assert "the best learning_rate, 0.243, is the highest that was tried, after its grid grew 3 of 3 times" in note
    assert "lower values" in tuning.edges(found, "b")[0]


def test_a_grid_grows_downwards_where_every_trial_diverged():
    found = grown(bowl(a=None), a=RATES)
    assert rates(found, "a") == [*RATES, 0.000333, 0.000111, 3.7e-05]
    assert "no trial has a validation loss" in tuning.remarks(found.trials)[0] and tuning.edges(found, "a") == []


@pytest.mark.parametrize("sizes", [(3, 5), (2, 2), (1, 4), (5, 2)], ids=lambda sizes: "-".join(map(str, sizes)))
@pytest.mark.parametrize("best", [1e-6, 2e-3, 1.0])
def test_every_method_has_the_same_number_of_trials(sizes, best):
    first, second = ([1e-3 * 3**n for n in range(size)] for size in sizes)
    found = grown(bowl(a=best, b=2e-3), a=first, b=second)
    if 1 in sizes:
        assert "do not have the same number of trials" in tuning.remarks(found.trials)[0]
    else:
        assert len(rates(found, "a")) == len(rates(found, "b")) and tuning.remarks(found.trials) == []
    assert all(len(set(rates(found, name))) == len(rates(found, name)) for name in "ab"), "no value is tried twice"


def test_a_grid_does_not_grow_beyond_what_a_method_takes():
    found = grown(bowl(a=1.0), lambda point: point.settings["learning_rate"] < 0.05, a=RATES)
    assert rates(found, "a") == [*RATES, 0.027] and len(tuning.edges(found, "a")) == 1


def test_whole_numbers_and_words_stay_as_they_are_typed():
    axes = {"rank": [8, 16], "schedule": ["constant", "linear"]}
    found = GridSearch({"a": axes}, by(lambda settings: 1 / settings["rank"]), lambda point: True)
    assert [tuple(trial.settings.values()) for trial in found.run()["a"]] == list(itertools.product(*axes.values()))
    assert tuning.edges(found, "a")[0].startswith("a: the best rank, 16, is the highest that was tried; type --grid")


def test_of_several_settings_only_the_best_point_grows():
    axes = {"learning_rate": [1e-3, 1e-2], "rank": [8, 16]}
    bowls = by(lambda settings: math.log(settings["learning_rate"] / 3e-2) ** 2 + settings["rank"])
    found = GridSearch({"a": axes}, bowls, lambda point: True)
    assert [tuple(trial.settings.values()) for trial in found.run()["a"][4:]] == [(0.1, 8)]


# What --grid says


def read(*texts, methods="lora,full", **options):
    settings = load("quick", **options)
    return grid.read(texts, [entry for entry in select([methods], settings) if not entry.control], settings)


def test_without_a_grid_the_rates_lie_around_each_method_s_own():
    assert read(methods="lora,bitfit") == {
        "lora": {"learning_rate": [0.000444, 0.00133, 0.004, 0.012, 0.036]},  # of the preset
        "bitfit": {"learning_rate": [0.00111, 0.00333, 0.01, 0.03, 0.09]},  # of the method's file
    }


def test_a_setting_is_tried_with_every_method_unless_one_has_its_own():
    found = read("methods.lora.learning_rate=1", "training.learning_rate=3e-4,1e-4", "methods.lora.rank=16,8")
    assert found == {"lora": {"learning_rate": [1.0], "rank": [8, 16]}, "full": {"learning_rate": [1e-4, 3e-4]}}


def test_values_are_read_as_toml_or_as_words():
    found = read("schedule=constant,linear", "methods.lora.targets=['q_proj'],['q_proj', 'v_proj']", methods="lora")
    assert found["lora"]["schedule"] == ["constant", "linear"]
    assert found["lora"]["targets"] == [["q_proj"], ["q_proj", "v_proj"]]


def test_a_row_of_its_own_is_tuned_by_its_name():
    assert read("methods.lora:rank=8.alpha=8,16", methods="lora:rank=8") == {"lora:rank=8": {"alpha": [8.0, 16.0]}}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("learning_rate", "expected KEY=VALUE,VALUE, for example --grid learning_rate=1e-4,3e-4,1e-3"),
        ("learning_rate=", "expected KEY=VALUE,VALUE"),
        ("learning_rat=1", "--grid learning_rat: not a training setting; did you mean 'learning_rate'?"),
        ("rank=8,16", "--grid rank: not a training setting; type --grid methods.lora.rank=..."),
        (
            "methods.lora.rnak=8",
            "--grid methods.lora.rnak: 'rnak' is not a setting of method 'lora'; did you mean 'rank'",
        ),
        ("methods.soft-prompt.epochs=1", "no selected method reads it"),
        ("methods.lora.rank=8", "method 'full' has nothing to try"),
        ("learning_rate=1e-3,x", "expected a number"),
        ("learning_rate=1e-3,0.001", "--grid learning_rate: 0.001 stands there twice"),
        ("learning_rate=-1", "expected at least 0"),
        ("epochs=1.5", "expected a whole number"),
    ],
)
def test_a_wrong_grid_is_one_line(text, expected):
    with pytest.raises(UsageError) as caught:
        read(text)
    assert expected in str(caught.value) and "--set" not in str(caught.value)


def test_a_grid_that_stands_there_twice_is_refused():
    with pytest.raises(UsageError, match="stands there twice; put all its values into one --grid"):
        read("learning_rate=1", "learning_rate=2")


def test_a_learning_rate_of_zero_has_nothing_around_it():
    with pytest.raises(UsageError, match=r"null: its learning_rate is 0, .* type --grid methods\.null\.learning_rate"):
        read(methods="null")


# Optuna


AXES = {"learning_rate": [1e-4, 1e-2], "rank": [4, 64], "schedule": ["constant", "linear"], "warmup": [0.0, 0.5]}


def test_optuna_draws_as_many_trials_for_each_method_within_the_grid_and_repeats_them():
    pytest.importorskip("optuna")
    first, second = (search.sample({"a": AXES, "b": AXES}, bowl(a=1e-3, b=None), 15, 42) for _ in range(2))
    assert first == second and [len(ours) for ours in first.values()] == [15, 15]
    tried = [trial.settings for ours in first.values() for trial in ours]
    assert all(1e-4 <= found["learning_rate"] <= 1e-2 and 0 <= found["warmup"] <= 0.5 for found in tried)
    assert all(isinstance(found["rank"], int) and 4 <= found["rank"] <= 64 for found in tried)
    assert {found["schedule"] for found in tried} == {"constant", "linear"}
    assert search.sample({"a": AXES}, bowl(a=1e-3), 3, 43)["a"] != first["a"][:3]


@pytest.mark.parametrize(("best", "which"), [(1.1e-4, "lowest"), (1e-3, ""), (9e-3, "highest")])
def test_a_best_value_beside_a_bound_of_what_optuna_draws_is_said(best, which):
    trials = {"a": [Trial("a", {"learning_rate": rate, "rank": 4}, abs(math.log(rate / best)))
                    for rate in (best, 3e-3)]}  # fmt: skip
    notes = tuning.bounds({"a": {"learning_rate": [1e-4, 1e-2], "rank": [4, 8]}}, trials)
    assert [f"beside the {which} that was allowed" in note and "--grid methods.a.learning_rate" in note
            for note in notes] == [True] * bool(which)  # fmt: skip
    dead = {"a": [Trial("a", {"learning_rate": 1e-4}, None)]}
    assert tuning.bounds({"a": {"learning_rate": [1e-4, 1e-2]}}, dead) == []


def test_optuna_draws_anew_what_a_method_refuses_and_gives_up_in_one_line():
    pytest.importorskip("optuna")
    fits = lambda point: point.settings["rank"] % 3 == 0  # noqa: E731
    found = search.sample({"a": AXES}, bowl(a=1e-3), 8, 42, fits)["a"]
    assert len(found) == 8 and all(trial.settings["rank"] % 3 == 0 for trial in found)
    with pytest.raises(UsageError, match=r"--trials: a takes none of 50 settings .*rank = "):
        search.sample({"a": AXES}, bowl(a=1e-3), 8, 42, lambda point: False)


def test_every_trial_has_the_share_of_the_processor_that_was_asked_for(monkeypatch):
    planned = []
    monkeypatch.setattr(tuning.plan, "make", lambda *given: planned.append(given) or SimpleNamespace(found={}))
    chosen = load("smoke")
    base = SimpleNamespace(entries=select(["lora"], chosen), settings=chosen, found={"a": "plan"})
    made = tuning.Tuning(SimpleNamespace(plan=base, store=None), None, 3)
    for settings in ({"rank": 4}, {"learning_rate": 1e-3}):
        made.plan(Point("lora", settings))
    assert [given[4] for given in planned] == [3, 3] and [given[3] for given in planned] == [None, base.found]


@pytest.mark.parametrize(("options", "share"), [
    ({"parallel": 4, "executor": "local"}, 4), ({"parallel": 4}, 4), ({"parallel": 0, "executor": "local"}, 1),
    ({"parallel": 16, "executor": "slurm"}, 1), ({"parallel": 16, "executor": "ray://host:1"}, 1), ({}, 1),
])  # fmt: skip
def test_only_runs_on_one_machine_share_its_processor(options, share):
    assert start.sharing(Namespace(**options)) == share


def test_without_optuna_one_line_says_what_to_type(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "--preset", "smoke", "--trials", "3"]) == 4
    assert "pip install 'optuna" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_number_of_trials_is_a_whole_one(number, capsys):
    assert main(["tune", f"--trials={number}"]) == 4
    assert "expected a whole number from 1 on" in capsys.readouterr().err


# The record


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Settings of a preset of one's own, a file `mine.toml`."""
    monkeypatch.setattr(project, "_root", tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text("seeds = [1]\n")
    return load(str(path))


def test_a_record_keeps_each_setting_once_and_is_counted(mine, tmp_path):
    kept = Record(mine)
    for asked, rate, loss in (("1", 1e-2, 3.0), ("2", 1e-3, 2.0), ("3", 1e-2, 4.0)):
        kept.keep(asked, Trial("lora", {"learning_rate": rate}, loss, {"1": [5.0, loss]}))
    Record(load(str(tmp_path / "mine.toml"), model="other.gguf")).keep("4", Trial("lora", {"learning_rate": 1.0}, 1.0))
    rows = record.read(kept.path)
    assert [(row["asked"], row["model"]) for row in rows] == [
        ("2", mine.model.name), ("3", mine.model.name), ("4", "other.gguf")
    ]  # fmt: skip
    other = Record(load(str(tmp_path / "mine.toml"), changes=["task.test=1", "training.epochs=9"]))
    other.keep("5", Trial("lora", {"learning_rate": 1e-2}, 2.0))
    assert record.read(kept.path)[-2]["set"] == {"training.epochs": 9}, "another recipe"
    assert Record(mine).known("1", {}) is None and record.counts(mine) == {}
    shutil.copy(other.path, record.kept(mine))
    assert record.counts(mine) == {"lora": 3}, "of this model"
    assert Record(mine).known("3", {}) == Trial("lora", {}, 4.0, {"1": [5.0, 4.0]})


def test_a_note_names_an_earlier_trial_that_was_better(mine):
    ours = Record(mine)
    ours.keep("one", Trial("lora", {"learning_rate": 1e-3}, 2.5))
    ours.keep("two", Trial("lora", {"rank": 8}, 2.0))
    [note] = tuning.earlier({"lora": [Trial("lora", {"learning_rate": 4e-3}, 2.75)]}, ours)
    assert note.startswith("lora: an earlier trial") and "2.5000 with learning_rate = 0.001;" in note
    assert not tuning.earlier({"lora": [Trial("lora", {"learning_rate": 4e-3}, 2.5)]}, ours)
    assert not tuning.earlier({"full": [Trial("full", {"learning_rate": 4e-3}, None)]}, ours)


def test_two_commands_that_keep_trials_at_once_lose_none(mine):
    together = threading.Barrier(8)

    def keep(number):
        together.wait(10)
        for one in range(5):
            Record(mine).keep(f"{number}-{one}", Trial("lora", {"rank": 10 * number + one}, 1.0))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, range(8)))
    assert len(record.read(record.place(mine))) == 40


def test_a_diverged_trial_is_known_and_one_that_was_killed_is_not(mine):
    kept = Record(mine)
    kept.keep("1", Trial("lora", {"learning_rate": 9.0}, None, {}, "loss is nan at step 3", True))
    kept.keep("2", Trial("lora", {"learning_rate": 8.0}, None, {}, "killed by signal 9"))
    assert Record(mine).known("1", {}).diverged and Record(mine).known("2", {}) is None
    assert json.loads(kept.path.read_text())["trials"][1]["validation_loss"] is None


def test_a_damaged_trial_is_one_line(mine):
    kept = Record(mine)
    kept.keep("1", Trial("lora", {}, 1.0))
    kept.path.write_text(kept.path.read_text().replace("1.0", '"low"'))
    with pytest.raises(UsageError, match=r"mine\.trials\.json: lora\.validation_loss is not what is stored there"):
        Record(mine).known("1", {})


def test_a_tuning_leaves_the_record_beside_the_preset_alone_and_goes_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "_root", tmp_path)
    quick = load("quick")
    committed = ROOT / "bench" / "presets" / "quick.trials.json"
    before = committed.read_bytes()
    assert record.find(quick) == committed
    Record(quick).keep("1", Trial("lora", {"learning_rate": 1.0}, 9.0))
    written = tmp_path / "reports" / "tune" / "quick.trials.json"
    assert record.find(quick) == written and len(record.read(written)) == len(QUICK) + 1
    assert committed.read_bytes() == before and record.counts(quick)["lora"] == sum(
        trial["method"] == "lora" for trial in QUICK
    )


TUNED = {path.name.removesuffix(".trials.json"): json.loads(path.read_text())["trials"]
         for path in sorted((ROOT / "bench" / "presets").glob("*.trials.json"))}  # fmt: skip
"""The trials that stand beside presets that ship."""


@pytest.mark.parametrize("preset", TUNED)
def test_every_method_of_a_preset_that_ships_had_the_same_number_of_trials(preset):
    assert len(set(Counter(row["method"] for row in TUNED[preset]).values())) == 1


@pytest.mark.parametrize(
    ("preset", "method"),
    [(name, method) for name in TUNED for method in sorted({row["method"] for row in TUNED[name]})],
)
def test_a_preset_that_ships_holds_the_rate_with_the_lowest_validation_loss_and_it_lies_inside_its_grid(preset, method):
    ours = {row["settings"]["learning_rate"]: row for row in TUNED[preset] if row["method"] == method}
    rate = min(ours, key=lambda one: ours[one]["validation_loss"] or math.inf)
    settings = load(preset)
    epochs = settings.methods[method].get("epochs", settings.training.epochs)
    assert settings.methods[method]["learning_rate"] == rate and min(ours) < rate < max(ours)
    assert {len(losses) - 1 for losses in ours[rate]["by_epoch"].values()} == {epochs}


# What is printed and drawn


def test_the_table_marks_the_best_and_the_advice_is_a_preset(tmp_path):
    trials = {
        "lora:rank=8": [
            Trial("lora:rank=8", {"learning_rate": rate, "schedule": "linear"}, loss, {"1": [3.0, 2.5, loss]})
            for rate, loss in ((1e-2, 2.0), (1e-3, 2.25))
        ],
        "full": [Trial("full", {"learning_rate": 1e-5}, None, {}, "loss is nan", True)],
    }  # fmt: skip
    text = table.render(trials, {"lora:rank=8": {"base": "lora", "rank": 8}}, ["a note"], "mine.toml")
    lines = text.splitlines()
    assert lines[2].split() == ["lora:rank=8", "0.001", "linear", "2.2500", "2"]
    assert lines[3].split() == ["lora:rank=8", "0.01", "linear", "2.0000", "2", "best"]
    assert lines[4].split() == ["full", "1e-05", "-", "-", "-", "diverged"] and "note: a note" in lines
    (tmp_path / "mine.toml").write_text(text.partition("put into mine.toml:")[2])
    [entry] = [entry for entry in select(["lora:rank=8"], load(str(tmp_path / "mine.toml"))) if not entry.control]
    assert entry.base == "lora" and "full" not in load(str(tmp_path / "mine.toml")).methods


@pytest.mark.parametrize("axes", [
    {"learning_rate": [1e-3, 1e-2, 1e-1]}, {"learning_rate": [1e-3, 1e-2], "rank": [4, 8]}, {"warmup": [0.0, 0.1]},
    {"schedule": ["constant", "linear"]}, {"learning_rate": [1e-3]},
    {"rank": [*range(1, 9)], "learning_rate": [1e-3, 1e-2]},
], ids=lambda axes: "-".join(axes))  # fmt: skip
def test_a_plot_is_drawn_of_any_trials(tmp_path, axes):
    losses = itertools.cycle([2.0, None, 9.0, 2.5])
    trials = {
        name: [Trial(name, point.settings, next(losses), {"1": [3.0, 2.0]}) for point in search.product(name, axes)]
        for name in "abcd"
    }
    assert plot.draw(trials, tmp_path / "p.png", "Title").path.stat().st_size > 1000


# What a trial's loss needs not


@pytest.mark.parametrize("change", [[], ["task.test=4", "measure.inference=2"]])
def test_a_trial_has_one_test_document_and_measures_nothing_else(change):
    found = load("smoke", changes=tuning.without_measures(asked(changes=change)).changes)
    assert (found.task.test, found.measure.forgetting, found.measure.inference) == (1, 0, 0)


def test_where_splits_are_drawn_no_test_document_becomes_a_training_document(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"document": f"Text {n}.", "summary": f"Gist {n}."}) + "\n" for n in range(40)))
    changes = ["task.split_column=", "task.train=0", "task.validation=4", "task.test=9"]
    found = tuning.without_measures(asked(changes=changes, task=str(path))).changes
    assert [change for change in found if "measure" not in change] == changes


def test_as_many_trials_are_made_at_once_as_the_executor_makes_runs(monkeypatch):
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(tuning.Tuning, "trial", lambda self, point: (both.wait(), point)[1])
    ours = object.__new__(tuning.Tuning)
    ours.session = SimpleNamespace(executor=SimpleNamespace(count=2))
    assert ours.measure(["a", "b", "c", "d"]) == ["a", "b", "c", "d"]


def test_an_interrupted_tuning_stops_the_other_trials(monkeypatch):
    stopped = threading.Event()

    def trial(self, point):
        if point == "first":
            raise KeyboardInterrupt
        assert stopped.wait(30)

    monkeypatch.setattr(tuning.Tuning, "trial", trial)
    ours = object.__new__(tuning.Tuning)
    ours.session = SimpleNamespace(executor=SimpleNamespace(count=2, stop=stopped.set))
    with pytest.raises(KeyboardInterrupt):
        ours.measure(["first", "second"])


def test_a_trial_whose_first_seed_dies_asks_for_no_other(monkeypatch):
    waiting = Future()

    class Dying:
        def __init__(self, *given, **options):
            self.futures = {"2": waiting}

        def runs(self, method):
            raise worker.DiedDiverged("training", "loss is nan at step 3")

    monkeypatch.setattr(tuning, "Session", Dying)
    ours = object.__new__(tuning.Tuning)
    ours.session = SimpleNamespace(store=None, progress=None, fresh=False, ledger=None, executor=None)
    found = ours.train(Point("lora", {"learning_rate": 9.0}), None)
    assert found.diverged and waiting.cancelled()


def asked(**options):
    """The options of `bakeoff tune --preset smoke`."""
    return SimpleNamespace(**{"preset": "smoke", "model": "", "task": "", "seeds": "", "changes": [], **options})


# The whole command


SMALL = [part for change in ("task.train=4", "task.validation=2", "training.epochs=1", "machine.threads=1")
         for part in ("--set", change)]  # fmt: skip
COMMAND = ["tune", "--preset", "smoke", "--method", "lora,bitfit", "--grid", "learning_rate=1e-3,1e-2", *SMALL]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, furnished):
    """Types `bakeoff tune` in a project with a preset of its own: `code, out, err, runs = command()`."""
    (tmp_path / "bench" / "presets").mkdir(parents=True)
    shutil.copy(ROOT / "bench" / "presets" / "smoke.toml", tmp_path / "bench" / "presets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "_root", None)
    furnished(tmp_path / ".bakeoff")
    make, made = Session.make, []

    def run(*arguments, stop_after=99):
        made.clear()

        def counted(session, spec):
            if len(made) == stop_after:
                raise KeyboardInterrupt
            made.append(make(session, spec))
            return made[-1]

        monkeypatch.setattr(Session, "make", counted)
        return main([*COMMAND, *arguments]), *capsys.readouterr(), list(made)

    return run


@pytest.mark.slow
def test_a_tuning_stops_goes_on_and_repeats_nothing(command, tmp_path):
    preset = tmp_path / "bench" / "presets" / "smoke.toml"
    before = preset.read_bytes()
    code, out, _, first = command(stop_after=3)
    assert code == 130 and "type the same command to go on" in out and len(first) == 3
    shutil.rmtree(tmp_path / ".bakeoff" / "runs")  # the record is enough
    code, out, err, second = command()
    assert code == 0, err
    rows = json.loads((tmp_path / "reports" / "tune" / "smoke.trials.json").read_text())["trials"]
    assert set(Counter(row["method"] for row in rows).values()) == {len(rows) // 2} and len(rows) >= 6
    assert len(first) + len(second) == len(rows) and [len(run.document_ids) for run in second] == [1] * len(second)
    assert "[methods.lora]" in out and "[methods.bitfit]" in out and preset.read_bytes() == before
    assert (tmp_path / "reports" / "tune" / "smoke.png").is_file()
    code, again, err, third = command()
    assert (code, again, third) == (0, out, []) and "found in smoke.trials.json" in err


@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_stops_no_other(command, tmp_path):
    code, out, _, _ = command("--method", "full", "--grid", "methods.full.learning_rate=1e-3,1e3",
                              "--set", "methods.full.gradient_clip=0", "--set", "training.batch_size=2")  # fmt: skip
    assert code == 0
    rows = json.loads((tmp_path / "reports" / "tune" / "smoke.trials.json").read_text())["trials"]
    ours = {row["settings"]["learning_rate"]: row for row in rows if row["method"] == "full"}
    assert ours[1e-3]["validation_loss"] > 0 and set(Counter(row["method"] for row in rows).values()) == {len(ours)}
    assert ours[1e3]["validation_loss"] is None and ours[1e3]["diverged"] and "diverged" in out


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--set", "training.epochs=0"], "its epochs are 0"),
        (["--grid", "methods.lora.rank=0,4"], "can't attach"),
        (["--method", "lorra"], "did you mean 'lora'?"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_first_trial(command, arguments, expected):
    code, out, err, made = command(*arguments)
    assert (code, made) == (4, []) and expected in err.splitlines()[-1] and "Traceback" not in err + out


def test_controls_are_not_tuned(capsys):
    assert main(["tune", "--preset", "smoke", "--method", "zero-shot"]) == 4
    assert "only controls, which train nothing; add --method lora" in capsys.readouterr().err
