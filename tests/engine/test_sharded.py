"""FSDP2: decoder layers' frozen weights in shares, and all that is computed as the plain engine does."""

from dataclasses import replace

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from bakeoff.config import presets
from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoded
from bakeoff.engine.plain import Plain
from bakeoff.engine.sharded import Sharded
from bakeoff.methods.registry import known_methods
from bakeoff.models import loading
from bakeoff.runs.adapters import frozen_digests
from bakeoff.session import plan

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
KINDS = {
    "llama": {**SIZE, "initializer_range": 0.2, "intermediate_size": 64, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2},
    "opt": {**SIZE, "init_std": 0.2, "ffn_dim": 64, "word_embed_proj_dim": 32},
}


@pytest.fixture
def alone(tmp_path):
    """A group of one rank."""
    distributed.init_process_group("gloo", store=distributed.FileStore(str(tmp_path / "meeting"), 1), rank=0,
                                   world_size=1)  # fmt: skip
    yield
    distributed.destroy_process_group()


def attached(kind, method):
    """A model with a method, the same each time."""
    torch.manual_seed(1)
    values = {"model_type": kind, "vocab_size": 257, "bos_token_id": 1, "eos_token_id": 1}
    settings = ModelSettings(name="random", architecture={**values, **KINDS[kind]})
    return known_methods()[method].kind().attach(*loading.load(settings, loading.locate(settings), None, "eager"))


@pytest.mark.parametrize("method", ["lora", "soft-prompt", "bitfit", "last-layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_texts_are_those_of_the_plain_engine(fp32, alone, encoded, kind, method):
    where = replace(fp32, engine="plain", packing=False)
    found = []
    for engine in (Plain(where, 0), Sharded(replace(where, sharded=True, ranks=1), 0)):
        model = attached(kind, method)
        with engine.prepared(model, []) as model:
            model.eval()
            loss = sum(engine.loss(model, micro) for micro in engine.micro_batches(model, encoded[:3], 3))
            loss.backward()
            gradients = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
            with engine.writing(model):
                texts = engine.generate(model, [one.ids[: one.prompt] for one in encoded[:3]], 5, rows=3, ends=(),
                                        vocabulary=range(257))  # fmt: skip
            found.append((loss.item(), gradients, texts, frozen_digests(model)))
    plain, sharded = found
    assert sharded[0] == pytest.approx(plain[0], rel=1e-5) and sharded[2:] == plain[2:]
    for name, gradient in plain[1].items():
        torch.testing.assert_close(sharded[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_what_is_shared_are_the_frozen_weights_of_layers(fp32, alone):
    engine = Sharded(replace(fp32, engine="plain", packing=False, sharded=True), 0)
    with engine.prepared(attached("llama", "lora"), []) as model:
        for name, parameter in model.named_parameters():
            frozen = ".layers." in name and not parameter.requires_grad
            assert isinstance(parameter, DTensor) == frozen, name


def test_a_document_without_labels_adds_nothing(fp32, encoded):
    engine = Plain(replace(fp32, engine="plain", packing=False), 0)
    with engine.prepared(attached("llama", "lora"), []) as model:
        loss = engine.loss(model, [Encoded(encoded[0].ids, len(encoded[0].ids))])
        loss.backward()
        assert loss.item() == 0
        assert all(not one.grad.any() for one in model.parameters() if one.grad is not None)


def test_a_model_that_names_no_layers_is_refused_when_it_is_planned(tmp_path, monkeypatch):
    changes = ["machine.ranks=2", "machine.sharded=true"]
    asked = plan.sections(presets.load("smoke", changes=changes))
    plan.probe(asked, [], str(tmp_path / "models"), print)
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaPreTrainedModel._no_split_modules", [])
    with pytest.raises(UsageError, match=r"machine.sharded: LlamaForCausalLM names no decoder .*machine.sharded=false"):
        plan.probe(asked, [], str(tmp_path / "models"), print)
