"""Presets and command line: what is wrong is named, what is changed changes only itself."""

import dataclasses
import typing
from collections.abc import Mapping

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.config import presets
from bakeoff.config.presets import load
from bakeoff.config.schema import SECTIONS, Settings, plain
from bakeoff.core import validation
from bakeoff.core.errors import UsageError

KEYS = [f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]


@pytest.fixture
def preset(tmp_path):
    """A function that writes a preset and gives its path: `load(preset("[task]\\ntrain = 1"))`."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def complaint(*arguments, **keywords):
    """The one line that `load` answers with."""
    with pytest.raises(UsageError) as caught:
        load(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", presets.preset_names())
def test_every_shipped_preset_loads(name):
    assert load(name).preset == name


def test_a_misspelt_preset_offers_the_nearest():
    assert complaint("qick") == "--preset 'qick' is not known; did you mean 'quick'?"


@pytest.mark.parametrize("name", ["../presets/quick", "nowhere.toml", "", "quick.tml"])
def test_a_preset_that_is_not_there_is_refused(name):
    assert "--preset" in complaint(name)


@pytest.mark.parametrize(
    "text, line, expected",
    [
        ("[task]\nname = 'x'\n[training]\nlearning_rat = 1.0", 4, "did you mean 'learning_rate'?"),
        ("\n[trainning]\nepochs = 1", 2, "did you mean 'training'?"),
        ("[training]\nepochs = 'three'", 2, "training.epochs = 'three': expected a whole number"),
        ("[training]\nepochs = 2.0", 2, "expected a whole number"),
        ("[training]\nepochs = true", 2, "expected a whole number"),
        ("[training]\nlearning_rate = false", 2, "expected a number"),
        ("[training]\nlearning_rate = nan", 2, "expected a finite number"),
        ("[training]\nlearning_rate = -inf", 2, "expected a finite number"),
        ("[training]\nlearning_rate = -1e-9", 2, "expected at least 0"),
        ("[training]\nwarmup = 1.01", 2, "expected at most 1"),
        ("[training]\nbatch_size = 0", 2, "expected at least 1"),
        ("[training]\nschedule = 'cosine'", 2, "expected one of linear, constant"),
        ("[training]\ngradient_clip = '1'", 2, "expected a number"),
        ("[model]\nname = 3", 2, "expected a text in quotes"),
        ("[model]\ntrust_remote_code = 1", 2, "expected true or false"),
        ("[model]\nspecial_tokens = '<sep>'", 2, "expected a list"),
        ("[model]\nspecial_tokens = [1]", 2, "expected a text in quotes"),
        ("[model]\narchitecture = 'llama'", 2, "expected a table"),
        ("[task]\ntrain = 9_000_000_000_000_000_000_000", 2, "at most 64 bits"),
        ("[engine]\nattention = 'flash'", 2, "expected one of auto, eager, sdpa, flash_attention_2"),
        ("\n\nseeds = 42", 3, "expected a list"),
        ("seeds = []", 1, "seeds is empty"),
        ("seeds = [1, 1]", 1, "expected different whole numbers"),
        ("seeds = [-1]", 1, "whole numbers from 0"),
        ("seeds = [4294967296]", 1, "whole numbers from 0 to 4294967295"),
        ("seeds = [true]", 1, "expected a whole number"),
        ("task = 3", 1, "expected a table [task]"),
        ("methods = 3", 1, "expected [methods.NAME] tables"),
        ("[methods]\nlora = 3", 1, "expected [methods.NAME] tables"),
        ("preset = 'x'", 1, "can't be set in a preset"),
        ("[task]\nprompt = 'Summarize.'", 2, "must hold {document} exactly once"),
        ("[task]\ninstruction = '{document} {document}'", 2, "must hold {document} exactly once"),
        ("[model]\nspecial_tokens = ['<a>', '<a>']", 2, "must be different and not empty"),
        ("[training]\nbatch_size = 4\nmicro_batch_size = 8", 3, "is above training.batch_size = 4"),
    ],
)
def test_a_wrong_preset_is_named_by_file_and_line(preset, text, line, expected):
    path = preset(text)
    found = complaint(path)
    assert found.startswith(f"{path}:{line}: ")
    assert expected in found


def test_the_line_is_that_of_the_key_in_its_own_table(preset):
    path = preset("[task]\nname = 'xsum'  # a comment\n\n[model]  # name = 1\n# name = 2\nname = 3\n")
    assert complaint(path).startswith(f"{path}:6: model.name")


def test_an_inline_table_is_found_by_its_line(preset):
    path = preset("seeds = [1]\ntask = { nmae = 'xsum' }\n")
    assert complaint(path).startswith(f"{path}:2: 'task.nmae' is not a setting; did you mean 'name'?")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[task\n", "not valid TOML"),
        ("[task]\ntrain = 1\ntrain = 2", "not valid TOML"),
        (b"name = '\xff'", "not UTF-8 at byte 8"),
        ("\ufeff[task]".encode("utf-16"), "not UTF-8"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("[model]\nname = 'random'", "needs a table [model.architecture]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_is_no_preset_is_named(preset, text, expected):
    path = preset(text)
    found = complaint(path)
    assert found.startswith(path) and expected in found


def test_an_empty_preset_is_all_defaults(preset):
    loaded = load(preset(""))
    assert plain(loaded) == plain(dataclasses.replace(Settings(), preset="mine", source=loaded.source))


def test_byte_order_mark_and_windows_line_ends_are_read(preset):
    assert load(preset("\ufeff[task]\r\ntrain = 7\r\n")).task.train == 7


@pytest.mark.parametrize(
    "change, expected",
    [
        ("training.epoch=3", "--set training.epoch: 'epoch' is not a setting of [training]; did you mean 'epochs'?"),
        ("epochs=3", "--set epochs: not a setting; did you mean 'training.epochs'?"),
        ("training=3", "--set training: not a setting"),
        ("training.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("training.epochs=", "--set training.epochs = '': expected a whole number"),
        ("training.epochs=3.5", "--set training.epochs = 3.5: expected a whole number"),
        ("training.epochs=true", "--set training.epochs = True: expected a whole number"),
        ("training.epochs=-1", "expected at least 0"),
        ("training.epochs=1e3", "expected a whole number"),
        ("training.epochs=10001", "expected at most 10000"),
        ("training.learning_rate=nan", "expected a finite number"),
        ("training.learning_rate=inf", "expected a finite number"),
        ("training.learning_rate=fast", "= 'fast': expected a number"),
        (f"training.learning_rate={'9' * 400}", "at most 64 bits"),
        (f"task.train={'9' * 5000}", "expected a whole number"),
        (f"task.train=0x{'f' * 5000}", "at most 64 bits"),
        ("model.name.first=x", "'name.first' is not a setting of [model]"),
        ("model.special_tokens=<sep>", "expected a list"),
        ("task.prompt=Summarize", "--set task.prompt: task.prompt must hold {document}"),
        ("training.batch_size=4", "--set training.micro_batch_size=4"),
        ("training.micro_batch_size=16", "--set training.micro_batch_size: training.micro_batch_size = 16 is above"),
        ("seeds=[]", "--set seeds: seeds is empty"),
        ("seeds=3", "--set seeds = 3: expected a list"),
        ("changes=3", "--set changes: not a setting"),
        ("task.train=1\nb = 2", "expected a whole number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_set_is_named_with_what_was_expected(change, expected):
    assert expected in complaint("quick", changes=[change])


@pytest.mark.parametrize("text", ["1,", ",", "a", "-1", "1.5", "4 2", "1,1", "0x1", "99999999999"])
def test_wrong_seeds_are_named(text):
    assert complaint("quick", seeds=text).startswith(f"--seeds {text!r}: ")


def test_seed_zero_is_a_seed():
    assert load("quick", seeds="0").seeds == (0,)
    assert load("quick", seeds="1,0").seeds == (1, 0)


@pytest.mark.parametrize("key, values", [("training.learning_rate", (0, 1)), ("training.warmup", (0, 1)),
                                         ("training.epochs", (0, 1)), ("task.split_seed", (0, 1)),
                                         ("task.train", (0, 1)), ("training.gradient_clip", (0, 1))])  # fmt: skip
def test_zero_and_one_are_values_like_others(key, values):
    section, name = key.split(".")
    for value in values:
        assert getattr(getattr(load("quick", changes=[f"{key}={value}"]), section), name) == value


def test_equal_batch_sizes_and_one_document_are_no_contradiction():
    loaded = load("quick", changes=["training.batch_size=1", "training.micro_batch_size=1"])
    assert loaded.training.batch_size == loaded.training.micro_batch_size == 1


def toml(value):
    """`value` as one would type it after `--set key=`."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if not isinstance(value, str) else f'"{value}"'


def valid(key):
    """Values of the setting `key` that the harness must take, whatever the others are."""
    section, name = key.split(".")
    field = {f.name: f for f in dataclasses.fields(SECTIONS[section])}[name]
    hint = typing.get_type_hints(SECTIONS[section])[name]
    low, high, choices = (field.metadata.get(limit) for limit in ("minimum", "maximum", "choices"))
    if key == "training.micro_batch_size":
        high = 8
    if key == "training.batch_size":
        low = 8
    if choices:
        return st.sampled_from(choices)
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(low, high or 2**40)
    if hint is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if hint is str:
        return st.from_regex(r"[a-z/]{1,9}", fullmatch=True).map(
            lambda text: text + "{document}" if key in ("task.prompt", "task.instruction") else text
        )
    if typing.get_origin(hint) is Mapping:
        return st.just({})
    return st.lists(st.from_regex(r"<[a-z]{1,5}>", fullmatch=True), unique=True)


@pytest.mark.parametrize("key", KEYS)
@hypothesis.settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_changed_setting_changes_only_itself(key, data):
    value = data.draw(valid(key))
    before = plain(load("quick"))
    after = plain(load("quick", changes=[f"{key}={toml(value)}"]))
    assert after.pop("changes") == {key: value}
    section, name = key.split(".")
    assert after[section][name] == value
    after[section][name] = before[section][name]
    assert {**after, "changes": {}} == before


def test_the_command_line_wins_over_the_preset_and_set_over_both():
    assert load("quick", model="random", changes=["model.name=quokka"]).model.name == "quokka"
    assert load("quick", task="xsum", changes=["task.name=samsum"]).task.name == "samsum"
    assert load("quick", seeds="1", changes=["seeds=[2]"]).seeds == (2,)
    assert load("quick", changes=["task.train=3", "task.train=4"]).task.train == 4


def test_another_task_keeps_sizes_and_drops_the_prompt_that_was_written_for_the_first():
    loaded = load("reference", task="aclsum/outcome")
    assert loaded.task.prompt == "" and loaded.task.train == 5000
    assert load("reference", task="aclsum/outcome", changes=["task.prompt={document}!"]).task.prompt == "{document}!"


def test_no_preset_allows_a_model_to_run_code(preset):
    path = preset("[model]\ntrust_remote_code = true\n")
    with pytest.raises(UsageError, match=r":2: .* type --trust-remote-code"):
        load(path)


@pytest.mark.parametrize("name", ["...toml", "..toml"])
def test_a_preset_can_not_name_a_folder_above_its_reports(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=r"needs a name before .toml|no such file|not known"):
        load(str(tmp_path / name))


def test_another_model_drops_what_described_the_first():
    loaded = load("reference", model="smollm2-135m").model
    assert (loaded.special_tokens, loaded.pad_token, loaded.architecture) == ((), "", {})
    assert load("reference", model="EleutherAI/gpt-neo-125m").model == load("reference").model


def test_one_key_of_the_architecture_can_be_set():
    before, after = load("smoke"), load("smoke", changes=["model.architecture.hidden_size=64"])
    assert after.model.architecture == {**before.model.architecture, "hidden_size": 64}


@pytest.mark.parametrize("path", ["seeds", "task.train", "model.architecture.hidden_size", "methods.lora", "changes.x"])
def test_settings_are_frozen(path):
    target = load("smoke")
    *parents, name = path.split(".")
    for parent in parents:
        target = getattr(target, parent)
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        target[name] = 1 if isinstance(target, Mapping) else setattr(target, name, 1)


@pytest.mark.parametrize(
    "hint, good, bad, expected",
    [
        (int | None, [3, None], ["x", True, 1.5], "a whole number"),
        (float | None, [3, 0.5, None], ["x"], "a number"),
        (typing.Literal["a", "b"], ["a"], ["c", 1], "one of a, b"),
        (list[str], [[], ["a"]], ["a", [1]], "a "),
        (typing.Any, [1, "a", None], [], ""),
    ],
)
def test_a_method_may_type_its_fields_as_python_does(hint, good, bad, expected):
    for value in good:
        assert validation.check(value, hint, {}, "here") == value
    for value in bad:
        with pytest.raises(UsageError, match=f"here = .*: expected {expected}"):
            validation.check(value, hint, {}, "here")


@pytest.mark.parametrize("key", ["prompt", "instruction"])
def test_a_backslash_n_that_is_no_newline_is_refused_with_what_to_type(key):
    with pytest.raises(UsageError, match=r"two characters.*--set 'task\.\w+=\"\{document\}\\nSum:\"'"):
        presets.load("smoke", changes=[rf"task.{key}={{document}}\nSum:"])
    found = presets.load("smoke", changes=[rf'task.{key}="{{document}}\nSum:"'])
    assert getattr(found.task, key) == "{document}\nSum:"
