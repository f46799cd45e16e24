"""The compatibility table: it has no wrong cell, and its cells are what they were when it was made."""

import subprocess
import sys

import pytest

from bakeoff.engine import layout
from bakeoff.methods.registry import known_methods
from bakeoff.models import blueprint
from bakeoff.runs import attaching
from bakeoff.shipped import ROOT
from lab.compatibility import architectures, table
from lab.compatibility.architectures import ARCHITECTURES
from lab.compatibility.cells import METHODS, Workbench
from lab.faults import rehearsal

QUICK = [  # the kinds that differ most, in seconds
    ("gpt2", "lora"),  # learned positions, weights that lie on their side, dropout
    ("bloom", "soft-prompt"),  # ALiBi
    ("gemma3", "p-tuning"),  # a scaled embedding, two ropes
    ("rwkv", "zero-shot"),  # no notice of padding
    ("llama", "prefix"),  # keys and values
    ("openai-gpt", "prefix"),  # refused: no cache
]
OTHERS = [  # one of each other kind
    ("mistral", "soft-prompt"),  # a window
    ("phi", "last-layer"),  # attention and MLP beside each other, a head with bias
    ("qwen3_moe", "lora"),  # experts
    ("mamba", "ia3"),  # a state
    ("lfm2", "soft-prompt"),  # a convolution
    ("llama-dynamic", "full"),  # refused: rope that depends on the longest document
    ("falcon-7b", "prefix-projection"),  # refused: other keys
    ("opt-350m", "p-tuning"),  # an embedding that is narrower than the hidden states
]
ROTATION = [(name, METHODS[place % len(METHODS)]) for place, name in enumerate(ARCHITECTURES)]
BAKE_OFFS = [name for place, name in enumerate(ARCHITECTURES) if place % 7 == 1]  # eleven
TYPED = ["recurrent_gemma", "llama-dynamic"]  # one that runs, one that is refused


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def kept():
    """The table of the repository, by architecture and method."""
    return {(cell.architecture, cell.method): cell for cell in table.committed()}


def test_the_table_has_every_method_on_every_architecture_and_no_wrong_cell(kept):
    assert set(kept) == {(name, method) for name in ARCHITECTURES for method in METHODS}
    assert len({values["model_type"] for values in ARCHITECTURES.values()}) >= 28
    assert {cell.verdict for cell in kept.values()} == {"works", "refused"}


def test_every_refusal_is_one_line_that_says_what_to_do(kept):
    for cell in kept.values():
        if cell.verdict == "refused":
            assert "\n" not in cell.words and "; " in cell.words and cell.method in cell.words, cell


def test_the_page_shows_the_cells_that_are_kept():
    assert table.TABLE.read_text(encoding="utf-8") == table.page(table.committed())


@pytest.mark.parametrize("name, method", QUICK)
def test_a_cell_is_that_of_the_table(bench, kept, name, method):
    assert bench.cell(name, method) == kept[name, method]


@pytest.mark.slow
@pytest.mark.parametrize("name, method", dict.fromkeys(cell for cell in [*OTHERS, *ROTATION] if cell not in QUICK))
def test_a_cell_of_every_architecture_is_that_of_the_table(bench, kept, name, method):
    assert bench.cell(name, method) == kept[name, method]


def test_padding_that_changes_a_text_makes_a_cell_wrong(bench, monkeypatch):
    monkeypatch.setattr(layout, "written", lambda model: "")
    cell = bench.cell("rwkv", "zero-shot")
    assert cell.verdict == "wrong" and "texts differ at batch size 6" in cell.words and "size 1" not in cell.words


def test_documents_that_leak_into_each_other_make_a_cell_wrong(bench, monkeypatch):
    monkeypatch.setattr(layout, "packed", lambda model: "")
    cell = bench.cell("lfm2", "lora")
    assert (
        cell.verdict == "wrong" and "loss at micro-batch 4" in cell.words and "gradient at micro-batch 4" in cell.words
    )
    assert "micro-batch 1" not in cell.words and "texts differ" in cell.words


def test_a_model_that_passes_over_keys_and_values_is_refused():
    Prefix = known_methods()["prefix"].kind

    class Deaf(Prefix):
        def attach(self, model, tokenizer):
            wrapped = super().attach(model, tokenizer)
            hears = wrapped.base_model.forward
            wrapped.base_model.forward = lambda past_key_values=None, **given: hears(**given)
            return wrapped

    build = blueprint.builder(architectures.settings("llama"), None, 257)
    assert attaching.unread(Prefix(), Prefix().attach(build("meta"), None), build) == ""
    found = attaching.unread(Deaf(), Deaf().attach(build("meta"), None), build)
    assert found == "the model passes over the keys and values of prefix tuning; take the method soft-prompt"


@pytest.mark.slow
@pytest.mark.parametrize("name", BAKE_OFFS)
def test_a_smoke_bake_off_runs_to_its_end_or_is_refused_before_it(tmp_path, name):
    refusal, faults = rehearsal.rehearse(name, tmp_path)
    assert faults == [] and "\n" not in refusal


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPED)
def test_a_smoke_bake_off_as_it_is_typed_leaves_no_traceback(tmp_path, furnished, name):
    furnished(tmp_path / "store")
    preset = tmp_path / f"{name}.toml"
    preset.write_text(rehearsal.preset(name), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "bench", "-p", "no:cacheprovider", "--preset", str(preset), "--method",
               "all", "--store", str(tmp_path / "store"), "--report-dir", str(tmp_path / "report")]  # fmt: skip
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    out = found.stdout + found.stderr
    assert "Traceback" not in out and "dead" not in found.stdout.replace("0 dead", ""), out
    assert found.returncode in (0, 1, 4), out
    if found.returncode == 4:
        assert out.count("ERROR") == 1
