"""What a method trains is what it saves, and what it saves is what loads."""

import pytest
import torch
from computing import fine_tune, summarise
from safetensors.torch import load_file

from bakeoff.config.schema import GenerationSettings, Settings, TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoder
from bakeoff.methods.selection import configure, select
from bakeoff.runs import adapters
from bakeoff.runs.resources import Clock
from bakeoff.session import probe

TRAINED = [entry for entry in select(["all"]) if not entry.control]


def moved(tiny, entry, special_tokens=("<|sep|>",)):
    """The method on a tiny model with grown embeddings, its weights moved away from their start."""
    model, tokenizer = tiny(special_tokens=special_tokens)
    torch.manual_seed(1)
    model = entry.kind().attach(model, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
def test_exactly_the_trained_tensors_are_saved(tiny, tmp_path, entry):
    model = moved(tiny, entry)
    file = adapters.save(model, tmp_path)
    assert adapters.saved_parameters(file) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(tensor.numel() for tensor in load_file(file).values()) == adapters.saved_parameters(file)


@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
def test_a_reloaded_adapter_computes_the_same(tiny, tmp_path, entry):
    model = moved(tiny, entry).eval()
    adapters.save(model, tmp_path)
    base, tokenizer = tiny(special_tokens=("<|sep|>",))
    torch.manual_seed(2)
    again = entry.kind().attach(base, tokenizer).eval()
    ids = torch.arange(20).reshape(2, 10)
    assert not torch.equal(model(ids).logits, again(ids).logits)
    adapters.load(again, tmp_path)
    assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("name", ["lora", "soft-prompt"])
def test_peft_loads_what_a_peft_method_saved(tiny, tmp_path, name):
    from peft import PeftModel

    [entry] = [entry for entry in TRAINED if entry.name == name]
    model = moved(tiny, entry).eval()
    adapters.save(model, tmp_path)
    base, _ = tiny(special_tokens=("<|sep|>",))
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    ids = torch.arange(20).reshape(2, 10)
    assert torch.equal(model(ids).logits, again(ids).logits)


def test_an_adapter_of_another_shape_is_refused(tiny, tmp_path):
    [full] = [entry for entry in TRAINED if entry.name == "full"]
    [head] = [entry for entry in TRAINED if entry.name == "last-layer"]
    adapters.save(moved(tiny, full), tmp_path)
    with pytest.raises(ValueError, match="the method trains"):
        adapters.load(moved(tiny, head), tmp_path)


def test_a_soft_prompt_starts_from_the_embeddings_of_its_text(tiny):
    [entry] = [entry for entry in TRAINED if entry.name == "soft-prompt"]
    model, tokenizer = tiny()
    embeddings = model.get_input_embeddings().weight.detach().clone()
    prompt = entry.kind(virtual_tokens=5, text="ab").attach(model, tokenizer).prompt_encoder.default.embedding.weight
    ids = tokenizer("ababa").input_ids
    assert torch.equal(prompt, embeddings[torch.tensor(ids)])


def test_a_digest_changes_with_one_bit():
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    before = adapters.digest(tensor)
    tensor[3] = 1e-30
    assert adapters.digest(tensor) != before
    assert adapters.digest(torch.tensor(1.0)) == adapters.digest(torch.ones(1))  # a trained scale has no dimension


def test_an_untrained_lora_writes_what_the_base_model_writes(tiny, task, fp32):
    model, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings())
    prompts = [encoder.prompt(example)[0] for example in task.examples.test]
    base, _ = summarise(model, tokenizer, prompts, 8, GenerationSettings(), fp32)
    [entry] = [entry for entry in TRAINED if entry.name == "lora"]
    adapted, _ = summarise(entry.kind().attach(model, tokenizer), tokenizer, prompts, 8, GenerationSettings(), fp32)
    assert adapted == base


def test_null_trains_all_its_steps_and_writes_what_the_plain_prompt_writes(tiny, task, encoded, fp32):
    model, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings())
    prompts = [encoder.prompt(example)[0] for example in task.examples.test]
    base, _ = summarise(model, tokenizer, prompts, 8, GenerationSettings(), fp32)
    [entry] = [entry for entry in select(["null"]) if not entry.control]
    method, recipe = configure(entry, Settings())
    adapted = method.attach(model, tokenizer)
    curves = fine_tune(adapted, encoded, encoded[:2], recipe, fp32, seed=0, pad=256, clock=Clock())
    assert curves.steps and recipe.learning_rate == 0 and not entry.by_default
    assert summarise(adapted, tokenizer, prompts, 8, GenerationSettings(), fp32)[0] == base


def test_all_leaves_null_out():
    assert "null" not in {entry.name for entry in select(["all"])}


SCALED = {
    "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8}, "granite": {"embedding_multiplier": 7.0}, "llama": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
def test_a_soft_prompt_that_starts_from_a_text_is_what_the_model_sees_for_it(tiny, kind):
    model, tokenizer = tiny(model_type=kind, **SCALED[kind])
    text, document = tokenizer("Sum up:").input_ids, tokenizer(" a text").input_ids
    with torch.no_grad():
        told = model.eval()(input_ids=torch.tensor([[*text, *document]])).logits[0, len(text) :]
        wrapped = select(["soft-prompt"])[0].kind(virtual_tokens=len(text), text="Sum up:").attach(model, tokenizer)
        learned = wrapped.prompt_encoder.default.embedding.weight[None]
        words = model.get_input_embeddings()(torch.tensor([document]))
        by_hand = model(inputs_embeds=torch.cat([learned, words], dim=1)).logits[0, len(text) :]
        found = wrapped.eval()(input_ids=torch.tensor([document])).logits[0, len(text) :]
    assert torch.allclose(by_hand, told, atol=1e-5) and torch.allclose(found, told, atol=1e-5)


@pytest.mark.parametrize("text", [" ", "\n\t"])
def test_a_soft_prompts_text_without_a_token_is_refused_when_it_is_planned(tiny, text):
    method = select(["soft-prompt"])[0].kind(text=text)
    with pytest.raises(UsageError, match=r"method 'soft-prompt': text = .* holds no token"):
        probe.refuse_text("soft-prompt", method, tiny()[1])
    probe.refuse_text("soft-prompt", select(["soft-prompt"])[0].kind(text="a"), tiny()[1])
