"""Documents in one row without padding: the same figures as each in a padded row of its own."""

import dataclasses

import pytest
import torch
from computing import loss_of, summarise

from bakeoff.config.schema import GenerationSettings, TaskSettings
from bakeoff.data.encoding import Encoder
from bakeoff.engine.attention import BLOCK, Documents, causal, row_logits
from bakeoff.engine.batches import collate
from bakeoff.engine.layout import packable
from bakeoff.methods.selection import select

METHODS = {entry.name: entry for entry in select(["all"])}


@pytest.fixture
def padded(fp32):
    return dataclasses.replace(fp32, packing=False)


@pytest.mark.parametrize("length", [1, 7, BLOCK, BLOCK + 3])
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_causal_attention_is_that_of_torch(length, kept):
    torch.manual_seed(length)
    query, key, value = (torch.randn(heads, length, 8) for heads in (4, kept, kept))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query[None], key[None], value[None], is_causal=True, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(causal(query, key, value, 0.3), theirs[0].transpose(0, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_one_row_gives_the_gradient_of_padded_rows(tiny, encoded, fp32, padded, name):
    found = []
    for machine in (fp32, padded):
        torch.manual_seed(0)
        model = METHODS[name].kind().attach(*tiny())
        assert packable(model)
        loss = loss_of(model, encoded, 256, machine)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        found.append((loss.item(), gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.norm(found[0][1] - found[1][1]) <= 1e-5 * torch.norm(found[1][1])


def test_a_document_sees_nothing_of_its_neighbours(tiny, encoded):
    model, _ = tiny()
    alone = collate(encoded[:1], 0, packed=True)
    both = collate(encoded[:2], 0, packed=True)
    first = row_logits(model, alone.input_ids, alone.lengths, alone.predicts, Documents)
    among = row_logits(model, both.input_ids, both.lengths, both.predicts, Documents)
    assert torch.allclose(first, among[: len(first)], atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "zero-shot"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_rows_that_end_make_room_and_no_text_changes(tiny, task, fp32, padded, name, rows):
    model, tokenizer = tiny()
    encoder = Encoder(tokenizer, task, TaskSettings(max_input_tokens=96))
    prompts = [encoder.prompt(example)[0] for example in (*task.examples.train, *task.examples.test)]
    torch.manual_seed(1)
    model = METHODS[name].kind().attach(model, tokenizer)
    with torch.no_grad():  # a model that ends its summaries at different lengths
        model.get_output_embeddings().weight.mul_(8)
        model.get_output_embeddings().weight[tokenizer.eos_token_id] += 0.3
    settings = GenerationSettings(batch_size=rows)
    ours = summarise(model, tokenizer, prompts, 20, settings, fp32)
    assert ours == summarise(model, tokenizer, prompts, 20, settings, padded)
