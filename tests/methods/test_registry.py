"""Methods by name and by file: what is wrong with one is named, and later settings win over earlier ones."""

import pytest

from bakeoff.config.presets import load
from bakeoff.config.schema import plain
from bakeoff.core.errors import UsageError
from bakeoff.methods.registry import known_methods
from bakeoff.methods.selection import configure, refuse_unread, select

METHOD = """
from dataclasses import dataclass
from typing import ClassVar, Literal

@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    training: ClassVar[dict] = {"learning_rate": 0.5, "epochs": 7}
    size: int = 1
    scale: float | None = None
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.size > 9:
            raise ValueError("size must be below 10")

    def attach(self, model, tokenizer):
        return model

    def expected_parameters(self, shapes):
        return None
"""


@pytest.fixture
def method(tmp_path):
    """A function that writes a method file and gives its path: `method(METHOD.replace("mine", "yours"))`."""

    def write(text=METHOD):
        path = tmp_path / "mine.py"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def preset(tmp_path):
    """A function that writes a preset and gives its path."""

    def write(text):
        path = tmp_path / "preset.toml"
        path.write_text(text)
        return str(path)

    return write


ROWS = """
[methods.lora]
alpha = 4.0

[methods.wide]
base = "lora"
rank = 64
learning_rate = 0.25
"""


def everything(asked, preset="smoke", changes=()):
    """Every selected method by name with its recipe, as runs get them."""
    settings = load(preset, changes=changes)
    entries = select([asked], settings)
    refuse_unread(settings, entries)
    return {entry.name: configure(entry, settings) for entry in entries}


def configured(asked, preset="smoke", changes=()):
    """The first selected method with its recipe."""
    return next(iter(everything(asked, preset, changes).values()))


def names(asked):
    return [entry.name for entry in select(asked) if not entry.control]


def test_names_groups_and_files_select_each_method_once(method):
    assert names(["lora,full", "lora"]) == ["lora", "full"]
    assert names(["reference"]) == ["last-layer", "lora", "soft-prompt"]
    assert set(names(["all"])) >= {"last-layer", "lora", "soft-prompt", "full"}
    assert names(["lora", method()]) == ["lora", "mine"]


@pytest.mark.parametrize("asked", ["lora", "zero-shot", "all"])
def test_every_control_rides_along_once(asked):
    controls = [entry.name for entry in select([asked]) if entry.control]
    assert sorted(controls) == ["lead-1", "lead-3", "oracle", "position", "shuffled", "zero-shot"]


@pytest.mark.parametrize("asked, expected", [("lorra", "did you mean 'lora'?"), ("", "known: "), ("lora,", "known: "),
                                             ("../lora", "--method '../lora'"), ("nowhere.py", "no such file"),
                                             ("softprompt", "did you mean 'soft-prompt'?")])  # fmt: skip
def test_an_unknown_method_offers_the_nearest(asked, expected):
    with pytest.raises(UsageError) as caught:
        select([asked])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("return model\n", "return model)\n", "mine.py:18: SyntaxError: unmatched ')'"),
        ("@dataclass(frozen=True)", "import no_such_module", "mine.py:5: ModuleNotFoundError"),
        ("@dataclass(frozen=True)", "raise SystemExit(3)", "mine.py:5: SystemExit: 3"),
        ("@dataclass(frozen=True)", "", "put @dataclass(frozen=True) above it"),
        ('name: ClassVar[str] = "mine"', "", "holds no method"),
        ('"mine"', '"../mine"', "name = '../mine': expected letters"),
        ('"mine"', '"all"', "name = 'all': expected letters"),
        ('"mine"', '"a.b"', "name = 'a.b': expected letters"),
        ('"mine"', '"lora"', "the name 'lora' is taken by"),
        ("size: int = 1", "size: int", "every field needs a type and a default"),
        ("size: int = 1", "size: 'Size' = 1", "every field needs a type and a default"),
        ("def attach", "def atach", "expected attach(model, tokenizer), or summarise(examples)"),
        ("def expected_parameters", "def parameters", "expected expected_parameters(shapes) beside attach"),
        ('"epochs": 7', '"epoch": 7', "training['epoch'] is not a setting; did you mean 'epochs'?"),
        ('{"learning_rate": 0.5, "epochs": 7}', "3", "training = 3: expected a table"),
        ("size: int", "epochs: int = 3\n    size: int", "'epochs' names a training setting"),
    ],
)
def test_a_wrong_method_file_is_named(method, old, new, expected):
    path = method(METHOD.replace(old, new))
    with pytest.raises(UsageError) as caught:
        select([path])
    found = str(caught.value)
    assert expected in found and path in found and "\n" not in found


def test_every_method_has_groups_and_a_file_may_make_more(method):
    trained = [name for name, entry in known_methods().items() if not entry.control]
    assert names(["every"]) == trained and set(names(["all"])) < set(trained)
    assert "lora" in names(["peft"]) and "full" not in names(["peft"])
    with pytest.raises(UsageError, match="'peft' is a group of methods; rename the method"):
        select([method(METHOD.replace('"mine"', '"peft"'))])


@pytest.mark.parametrize(
    "groups, expected",
    [("'peft'", "groups = 'peft': expected a tuple"), ("('all',)", "group = 'all'"), ("(3,)", "expected a tuple")],
)
def test_wrong_groups_are_named(method, groups, expected):
    with pytest.raises(UsageError) as caught:
        select([method(METHOD.replace('= "mine"', f'= "mine"\n    groups: ClassVar[tuple] = {groups}'))])
    assert expected in str(caught.value)


def test_one_method_under_several_settings_makes_several_rows():
    changes = ["methods.lora.alpha=8", "methods.lora.rank=2", "training.epochs=5"]
    found = everything("lora:rank=4,lora:rank=32:epochs=9,lora", changes=changes)
    rows = [name for name in found if name.startswith("lora")]
    assert rows == ["lora:rank=4", "lora:rank=32:epochs=9", "lora"]
    assert [(found[row][0].rank, found[row][0].alpha, found[row][1].epochs) for row in rows] == [
        (4, 8, 5), (32, 8, 9), (2, 8, 5)]  # fmt: skip


def test_a_table_with_a_base_is_a_row_of_that_method(preset):
    path = preset(ROWS)
    found = everything("wide,lora", path, ["methods.wide.dropout=0.5"])
    wide, lora = found["wide"], found["lora"]
    assert (wide[0].rank, wide[0].alpha, wide[0].dropout, wide[1].learning_rate) == (64, 4.0, 0.5, 0.25)
    assert (lora[0].rank, lora[0].dropout) == (16, 0.0)


@pytest.mark.parametrize(
    "asked, expected",
    [
        ("lora:rank", "'rank': expected KEY=VALUE, for example --method lora:rank=8"),
        ("lora:rnk=8", "--method lora:rnk=8: rnk: 'rnk' is not a setting of method 'lora'; did you mean 'rank'?"),
        ("lora:rank=many", "--method lora:rank=many: rank = 'many': expected a whole number"),
        ("lora:rank=8:rank=9", "'rank' stands there twice"),
        ("lead-1:n=2", "'lead-1' is a control and has no settings to vary"),
        ("lorra:rank=8", "did you mean 'lora'?"),
        ("wide:rank=3,lora", ""),
    ],
)
def test_a_row_that_cannot_be_is_named(preset, asked, expected):
    if not expected:
        assert everything(asked, preset(ROWS))["wide:rank=3"][0].rank == 3
        return
    with pytest.raises(UsageError) as caught:
        everything(asked, preset(ROWS))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table, expected",
    [
        ('[methods.wide]\nbase = "lorra"', "preset.toml:2: 'lorra' is not a method; did you mean 'lora'?"),
        ('[methods.full]\nbase = "lora"', "preset.toml:2: 'full' is a method itself"),
        ("[methods.wide]\nrank = 3", 'a row of its own needs base = "METHOD"'),
        ("[methods.wide]\nbase = 3", "preset.toml:2: 3 is not a method"),
    ],
)
def test_a_wrong_base_is_named(preset, table, expected):
    with pytest.raises(UsageError) as caught:
        everything("lora", preset(table))
    assert expected in str(caught.value)


def test_two_classes_of_one_name_in_a_file_are_refused(method):
    with pytest.raises(UsageError, match="Mine and Yours have one name, 'mine'"):
        select([method(METHOD + METHOD.replace("class Mine", "class Yours"))])


def test_a_training_value_of_a_method_file_is_checked(method):
    path = method(METHOD.replace("0.5", "-0.5"))
    with pytest.raises(UsageError, match=r"training.learning_rate = -0.5: expected at least 0"):
        configured(path)


def test_each_later_place_wins_over_the_earlier(method, preset):
    path = method()
    table = preset("[training]\nlearning_rate = 0.1\nweight_decay = 0.1\n[methods.mine]\nlearning_rate = 0.2\n")
    own, everyone, typed = "methods.mine.learning_rate=0.4", "training.learning_rate=0.3", "methods.mine.size=2"
    assert configured(path)[1].learning_rate == 0.5  # the class's over the preset's [training]
    assert configured(path, table)[1].learning_rate == 0.2
    assert configured(path, table, [everyone])[1].learning_rate == 0.3
    assert configured(path, table, [own, everyone])[1].learning_rate == 0.4
    assert configured(path, table)[1].weight_decay == 0.1
    assert configured(path, table, [typed])[0].size == 2


def test_a_set_that_one_method_reads_changes_no_other():
    before, after = (
        plain(everything("all", "quick", changes)) for changes in ([], ["methods.lora.learning_rate=0.25"])
    )
    assert after["lora"][1].pop("learning_rate") == 0.25
    before["lora"][1].pop("learning_rate")
    assert after == before


def test_a_changed_hyperparameter_changes_only_itself():
    before, after = (plain(configured("lora", "quick", changes)) for changes in ([], ["methods.lora.rank=8"]))
    assert after[0].pop("rank") == 8 and before[0].pop("rank") == 16
    assert after == before


@pytest.mark.parametrize(
    "change, expected",
    [
        ("methods.lora.rnk=8", "--set methods.lora.rnk: 'rnk' is not a setting of method 'lora'; did you mean 'rank'?"),
        ("methods.lora.rank=8.0", "methods.lora.rank = 8.0: expected a whole number"),
        ("methods.lora.rank=true", "expected a whole number"),
        ("methods.lora.alpha=nan", "expected a finite number"),
        ("methods.lora.targets=q_proj", "expected a list"),
        ("methods.lora.epochs=-1", "methods.lora.epochs = -1: expected at least 0"),
        ("methods.lora.batch_size=1", "type --set training.micro_batch_size=1"),
        ("methods.lorra.rank=8", "--set methods.lorra.rank: no selected method reads it; did you mean 'lora'?"),
        (
            "methods.soft-prompt.text=x",
            "--set methods.soft-prompt.text: no selected method reads it; add --method soft",
        ),
        ("methods.zero-shot.epochs=3", "'epochs' is not a setting of method 'zero-shot'"),
        ("methods.lead-1.size=3", "'size' is not a setting of method 'lead-1'"),
    ],
)
def test_a_set_that_no_selected_method_reads_is_refused(change, expected):
    with pytest.raises(UsageError) as caught:
        everything("lora", changes=[change])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_training_settings_are_refused_where_nothing_trains():
    with pytest.raises(UsageError, match="only controls are selected"):
        configured("zero-shot", changes=["training.epochs=1"])


@pytest.mark.parametrize(
    "text, line, expected",
    [
        ("[training]\nepochs = 1\n[methods.lora]\nepoch = 1", 4, "'epoch' is not a setting of method 'lora'"),
        ("[training]\nepochs = 1\n[methods.lora]\nepochs = -1", 4, "methods.lora.epochs = -1: expected at least 0"),
        ("[methods.lora]\nrank = 'x'", 2, "methods.lora.rank = 'x': expected a whole number"),
        ("[methods.lorra]\nrank = 1", 1, "[methods.lorra] is no method; did you mean 'lora'?"),
        ("[methods.lead-1]\nepochs = 1", 2, "'epochs' is not a setting of method 'lead-1'"),
    ],
)
def test_a_wrong_method_table_is_named_by_file_and_line(preset, text, line, expected):
    path = preset(text)
    with pytest.raises(UsageError) as caught:
        everything("lora", path)
    assert str(caught.value).startswith(f"{path}:{line}: ") and expected in str(caught.value)


def test_what_a_method_itself_refuses_is_one_line(method):
    with pytest.raises(UsageError, match=r"^--set: methods.mine: size must be below 10$"):
        configured(method(), changes=["methods.mine.size=10"])


def test_optional_and_literal_hyperparameters_are_checked(method):
    chosen, _ = configured(method(), changes=["methods.mine.scale=3", "methods.mine.kind=b"])
    assert (chosen.scale, chosen.kind) == (3.0, "b")
    with pytest.raises(UsageError, match="expected one of a, b"):
        configured(method(), changes=["methods.mine.kind=c"])


def test_a_method_is_frozen():
    method, recipe = configured("lora")
    for target, name in ((method, "rank"), (recipe, "epochs")):
        with pytest.raises(AttributeError):
            setattr(target, name, 1)
