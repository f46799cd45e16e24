"""What training did beside the task: forgetting, and the cost of writing."""

import contextlib
import json

import pytest
import torch
from computing import fine_tune
from torch.nn import functional

from bakeoff import engine
from bakeoff.config.schema import MeasureSettings, TrainingSettings
from bakeoff.core.errors import UsageError
from bakeoff.data import other_text
from bakeoff.data.encoding import Encoded
from bakeoff.methods.registry import known_methods
from bakeoff.runs import side_effects
from bakeoff.runs.resources import Clock

LORA = known_methods()["lora"].kind


@pytest.fixture
def trained(tiny, encoded, fp32):
    model, tokenizer = tiny()
    torch.manual_seed(0)
    model = LORA(rank=2).attach(model, tokenizer)
    recipe = TrainingSettings(epochs=3, learning_rate=3e-2, batch_size=4, micro_batch_size=4)
    fine_tune(model, encoded, encoded[:2], recipe, fp32, seed=0, pad=256, clock=Clock())
    return model


def texts(*lengths):
    draw = torch.Generator().manual_seed(0)
    return [Encoded(torch.randint(0, 256, (length,), generator=draw).tolist(), 1) for length in lengths]


@torch.no_grad()
def by_hand(model, one):
    """tokens - 1 x vocabulary: log probabilities by transformers."""
    return model.eval()(torch.tensor([one.ids])).logits[0, :-1].double().log_softmax(-1)


def test_forgetting_is_cross_entropy_and_divergence_by_hand(tiny, trained, fp32):
    base, _ = tiny()
    some, prompts = texts(9, 17), texts(5, 12, 7)
    found = side_effects.forgetting(engine.make(fp32, 256), base, trained, some, prompts)
    for name, model in (("before", base), ("after", trained)):
        losses = [functional.nll_loss(by_hand(model, one), torch.tensor(one.ids[1:]), reduction="sum") for one in some]
        assert found[name] == pytest.approx(sum(losses).item() / (8 + 16), rel=1e-5)
    apart = [(p.exp() * (p - q)).sum() for p, q in ((by_hand(base, one), by_hand(trained, one)) for one in prompts)]
    assert found["divergence"] == pytest.approx(sum(apart).item() / (4 + 11 + 6), rel=1e-4)
    assert found["after"] != found["before"] and found["divergence"] > 0.01


def test_a_model_that_learned_nothing_forgot_nothing(tiny, fp32):
    base, tokenizer = tiny()
    model = LORA(rank=2).attach(tiny()[0], tokenizer)
    found = side_effects.forgetting(engine.make(fp32, 256), base, model, texts(9), texts(5))
    assert found["before"] == pytest.approx(found["after"], rel=1e-6) and abs(found["divergence"]) < 1e-9


def test_a_merged_model_says_the_same_with_fewer_weights(trained, fp32):
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = trained.eval()(ids).logits
        whole = side_effects.merged(trained)
        assert torch.allclose(whole(ids).logits, before, atol=1e-4)
    made = engine.make(fp32, 256)
    weights = side_effects.cost(made, whole, [[1]], lambda model, prompts: None)["bytes"]
    both = LORA(rank=2).attach(whole, None)
    assert weights < side_effects.cost(made, both, [[1]], lambda model, prompts: None)["bytes"]


def test_what_writing_prepares_once_is_not_timed(tiny, fp32, monkeypatch):
    made, order = engine.make(fp32, 256), []
    monkeypatch.setattr(side_effects.time, "perf_counter", lambda: order.append("time") or float(len(order)))
    monkeypatch.setattr(made, "decoding_weights", lambda model: order.append("weights") or contextlib.nullcontext())

    def write(model, prompts):
        with made.writing(model):
            order.append(list(map(len, prompts)))

    found = side_effects.cost(made, tiny()[0], [[1], [1, 2, 3]], write)
    assert order == ["weights", [3], "time", [1, 3], "time"] and found["seconds"] == (5 - 3) / 2


def test_virtual_tokens_have_no_merged_form(tiny):
    model, tokenizer = tiny()
    assert side_effects.merged(known_methods()["soft-prompt"].kind(virtual_tokens=3).attach(model, tokenizer)) is None
    assert side_effects.merged(known_methods()["last-layer"].kind().attach(tiny()[0], tokenizer)) is None


def test_texts_of_ones_own_come_from_a_table_or_from_paragraphs(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(3)))
    (tmp_path / "a.txt").write_text("One\nline more.\n\nTwo.\n\n\n\nThree.")
    for name, expected in (("a.jsonl", ["text 0", "text 1"]), ("a.txt", ["One\nline more.", "Two."])):
        assert other_text.load(MeasureSettings(forgetting=2, text=str(tmp_path / name))) == expected
    assert other_text.load(MeasureSettings(text="nowhere.txt")) == []


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("a.jsonl", '{"text": "one"}\n{"words": "two"}\n', "a.jsonl:2: 'text' is missing"),
        ("a.jsonl", '{"text": "one"}\n', r"holds 1 texts; type --set measure.forgetting=1"),
        ("a.md", "one", "expected a .txt file"),
        ("b.txt", None, "no such file"),
    ],
)
def test_texts_that_are_not_there_are_named(tmp_path, name, text, expected):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=expected):
        other_text.load(MeasureSettings(forgetting=2, text=str(tmp_path / name)))


def test_introductions_are_the_text_by_default():
    found = other_text.load(MeasureSettings(forgetting=3))
    assert len(found) == 3 and all(len(text) > 500 for text in found)
    assert len({other_text.sha256(found), other_text.sha256(found[:2]), other_text.sha256([])}) == 3
