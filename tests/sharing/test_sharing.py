"""Finished runs for others: merged models as transformers loads them, and model cards that PEFT and a hub take."""

import json
import re

import pytest
import torch
import yaml
from sacrebleu.metrics import CHRF
from safetensors.torch import load_file

from bakeoff.cli import main
from bakeoff.config import presets
from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.core.validation import build
from bakeoff.models import loading
from bakeoff.runs import side_effects
from bakeoff.session import plan, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store, intact, read_predictions
from bakeoff.sharing import merge, stored

SMALL = ["task.train=4", "task.validation=2", "task.test=3", "task.max_target_tokens=8", "machine.threads=1"]
METHODS = ("lora", "last-layer", "soft-prompt")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory, furnished):
    """A store with a run of each method, and of a control."""
    store = Store(furnished(tmp_path_factory.mktemp("sharing") / "store"))
    worker.start_server(offline=True)
    session = Session(
        plan.make(presets.load("smoke", changes=SMALL), [*METHODS], store), store, Progress(None, live=False)
    )
    store.runs = {name: session.runs(name)[0] for name in (*METHODS, "lead-1")}
    return store


@pytest.fixture
def typed(store, capsys):
    """Types a command about the run of a method: `code, out, err = typed("merge", "lora", "out")`."""

    def run(command, method, *arguments):
        places = ["--store", str(store.root)]
        code = main([command, store.runs[method].fingerprint[:12], *map(str, arguments), *places])
        return code, *capsys.readouterr()

    return run


def base_of(run):
    """The base model of a run."""
    settings = build(ModelSettings, run.spec["model"], "run")
    return loading.load(settings, loading.locate(settings), None, "eager")


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(1, 60)[None]).logits


@pytest.mark.parametrize("method", ["lora", "last-layer"])
def test_a_merged_model_says_what_the_trained_one_says(store, typed, tmp_path, method):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    out = tmp_path / "merged"
    code, said, _ = typed("merge", method, out)
    assert code == 0 and "3 of 3 summaries are the attached model's" in said
    merged, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    run = store.runs[method]
    base, words = base_of(run)
    untrained = logits(base)
    if method == "lora":
        trained = PeftModel.from_pretrained(base, store.folder(run.fingerprint) / "adapter")
    else:
        [head] = load_file(store.folder(run.fingerprint) / "adapter" / "trained.safetensors").values()
        trained = base
        trained.get_output_embeddings().weight = torch.nn.Parameter(head)
    torch.testing.assert_close(logits(merged), logits(trained), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), untrained, atol=1e-3)
    assert tokenizer("a text")["input_ids"] == words("a text")["input_ids"]
    config = GenerationConfig.from_pretrained(out)
    assert (config.do_sample, config.max_new_tokens, config.eos_token_id) == (False, 8, words.eos_token_id)
    assert "library_name: transformers" in (out / "README.md").read_text()
    code, _, err = typed("merge", method, out)
    assert code == 4 and "exists; name a folder that does not" in err


def test_what_cannot_be_merged_is_refused_in_one_line_and_leaves_nothing(typed, tmp_path):
    for method, expected in (("soft-prompt", "load its adapter: peft.PeftModel"), ("lead-1", "lead-1 is a control")):
        code, out, err = typed("merge", method, tmp_path / "out")
        assert code == 4 and expected in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_a_wrong_merge_is_found_and_leaves_nothing(store, monkeypatch, tmp_path):
    def wrong(model):
        found = side_effects_merged(model)
        found.get_input_embeddings().weight.data[:, 0] += 0.5
        return found

    side_effects_merged = side_effects.merged
    monkeypatch.setattr(side_effects, "merged", wrong)
    run = stored.find("merge", store.runs["lora"].fingerprint, store.root)
    with pytest.raises(UsageError, match="nothing was written: the merged model's logits differ"):
        merge.merge(run, tmp_path / "out", store.models)
    assert not list(tmp_path.iterdir())


def test_a_card_stands_beside_the_adapter_and_the_run_stays_believed(store, typed):
    from peft import PeftModel

    run = store.runs["lora"]
    adapter = store.folder(run.fingerprint) / "adapter"
    code, out, _ = typed("card", "lora")
    assert code == 0 and str(adapter / "README.md") in out
    _, front, text = (adapter / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "peft" and "base_model" not in values and "license" not in values
    [results] = values["model-index"][0]["results"]
    means = [round(100 * sum(run.scores[metric]) / 3, 2) for metric in ("rouge1", "rouge2", "rougeL")]
    assert [one["value"] for one in results["metrics"]] == means and results["dataset"]["name"] == "aclsum/outcome"
    rows = dict(re.findall(r"^\| ([^|]+?) +\| +([-\d.]+) ", text, re.MULTILINE))
    written = read_predictions(adapter.parent / "predictions.jsonl")
    chrf = [CHRF(word_order=2).sentence_score(one.summary, [one.reference]).score for one in written]
    assert float(rows["chrF++ x 100"]) == pytest.approx(sum(chrf) / 3, abs=0.006)
    assert float(rows["empty summaries, %"]) == round(100 * sum(not one.summary.strip() for one in written) / 3, 2)
    assert run.fingerprint in text and f"| rank | {run.spec['hyperparameters']['rank']} |" in text
    assert intact(adapter.parent) and store.find(run.fingerprint) == run
    PeftModel.from_pretrained(base_of(run)[0], adapter)


def test_a_copy_of_the_adapter_names_a_base_model_that_a_hub_knows(store, typed, tmp_path, monkeypatch):
    from bakeoff.sharing import card

    monkeypatch.setattr(card, "hub_id", lambda run: "someone/base")
    before = (store.folder(store.runs["lora"].fingerprint) / "adapter" / "adapter_config.json").read_bytes()
    assert typed("card", "lora", "--output", tmp_path / "copy")[0] == 0
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors"}  # fmt: skip
    assert (
        json.loads((tmp_path / "copy" / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/base"
    )
    assert "base_model: someone/base" in (tmp_path / "copy" / "README.md").read_text()
    assert (store.folder(store.runs["lora"].fingerprint) / "adapter" / "adapter_config.json").read_bytes() == before


def test_trained_weights_without_an_adapter_get_no_card_of_one(typed):
    code, _, err = typed("card", "last-layer")
    assert code == 4 and "type bakeoff merge" in err and err.count("\n") == 1
