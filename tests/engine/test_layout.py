"""How documents may stand together is found by a test on the model, and what is written is what each alone would be."""

import dataclasses

import peft
import pytest
import torch
from computing import loss_of, summarise
from transformers import AutoConfig, AutoModelForCausalLM

from bakeoff.config.schema import GenerationSettings
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.models import loading

LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 64}  # fmt: skip
SHAPES = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 7},
    "gemma2": {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7, "attn_logit_softcapping": 2.0},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "window_size": 7, "max_position_embeddings": 128, "resid_dropout": 0, "embed_dropout": 0,
                "attention_dropout": 0},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 64},
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "lfm2": {**LLAMA, "layer_types": ["conv", "full_attention"]},
}  # fmt: skip
VIRTUAL = {
    "soft-prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix, projected": peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    ),
}
PROMPTS = [[(7 * row + 3 * place * place) % 250 for place in range(size)] for row, size in enumerate((5, 30, 17, 5))]


def configured(kind, **changes):
    values = {"vocab_size": 257, "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": None,
              "tie_word_embeddings": False, **SHAPES[kind], **changes}  # fmt: skip
    return AutoConfig.for_model(kind, **values)


def built(kind, method=None, **changes):
    """A tiny model whose attention is peaked, so that a wrong position or mask changes what it writes."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(configured(kind, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.35)
    if method:
        model = peft.get_peft_model(model, VIRTUAL[method])
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.5)
    return model.eval()


@torch.no_grad()
def alone(model, prompt, limit):
    """What transformers writes of one document: no padding, no cache, all of it read for each token."""
    ids = list(prompt)
    for _ in range(limit):
        given = {"input_ids": torch.tensor([ids])}
        inner = model
        if hasattr(model, "peft_config"):
            inner, virtual = model.base_model, model.get_prompt(batch_size=1)
            if isinstance(virtual, torch.Tensor):
                given = {"inputs_embeds": torch.cat([virtual, model.word_embeddings(given["input_ids"])], dim=1)}
            else:
                given["past_key_values"] = virtual
        ids.append(int(inner(**given, use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == 256:
            break
    return [token for token in ids[len(prompt) :] if token != 256]


def texts(model, machine, size, packing):
    tokenizer = loading.byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    machine = dataclasses.replace(machine, packing=packing)
    found, _ = summarise(model, tokenizer, PROMPTS, 10, GenerationSettings(batch_size=size), machine)
    expected = [tokenizer.decode(alone(model, prompt, 10), skip_special_tokens=True).strip() for prompt in PROMPTS]
    return [found[place] for place in range(len(PROMPTS))], expected


CASES = [(kind, None) for kind in SHAPES] + [(kind, "soft-prompt") for kind in ("llama", "gemma2", "gpt_neo", "bloom")]
CASES += [("llama", method) for method in ("p-tuning", "prefix", "prefix, projected")] + [("gemma2", "prefix")]


@pytest.mark.parametrize(("kind", "method"), CASES)
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("packing", [True, False])
def test_a_text_is_that_of_its_document_alone(fp32, kind, method, size, packing):
    found, expected = texts(built(kind, method), fp32, size, packing)
    assert found == expected


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_loss_is_the_sum_of_the_losses_of_documents_alone(fp32, kind, method):
    model = built(kind, method)
    examples = [Encoded([*prompt, 1, 2, 3], len(prompt)) for prompt in PROMPTS]
    single = sum(loss_of(model, [one], 0, dataclasses.replace(fp32, packing=False)).item() for one in examples)
    for packing in (True, False):
        machine = dataclasses.replace(fp32, packing=packing)
        assert loss_of(model, examples, 0, machine).item() == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("llama", ""), ("mistral", ""), ("gemma2", ""), ("lfm2", "documents in one row do not give the logits of each"),
     ("bloom", "its attention can't be replaced"), ("rwkv", "its attention can't be replaced")],
)  # fmt: skip
def test_a_model_says_why_its_documents_do_not_stand_in_one_row(kind, reason):
    found = layout.packed(built(kind))
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_a_model_that_takes_no_notice_of_padding_says_so():
    model = built("rwkv")
    assert layout.written(model).startswith("padding on the left changes the logits")
    assert not layout.padded(model) and not layout.written(built("gpt_neo"))


class Shift(torch.nn.Module):
    """Adds `scale` times the token before."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner, self.scale = inner, torch.nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return self.inner(x + self.scale * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


def test_a_method_that_mixes_tokens_is_seen_though_it_begins_by_mixing_nothing(fp32):
    model = built("llama")
    for layer in model.model.layers:
        layer.mlp = Shift(layer.mlp, 32)
    added = [layer.mlp.scale for layer in model.model.layers]
    layout.settle(model, added, packing=True)
    assert layout.packed(model).startswith("documents in one row do not give the logits of each")
    assert all(bool((scale == 0).all()) for scale in added)
    with torch.no_grad():
        for scale in added:
            scale.fill_(1.0)
    examples = [Encoded([*prompt, 1, 2, 3], len(prompt)) for prompt in PROMPTS]
    single = sum(loss_of(model, [one], 0, fp32).item() for one in examples)
    assert loss_of(model, examples, 0, fp32).item() == pytest.approx(single, rel=1e-6)


def test_a_window_that_is_longer_than_the_test_is_asked_for_by_layer():
    model = built("mistral", sliding_window=4096)
    assert layout.packed(model) == ""
    vars(model).pop(layout.FOUND)
    model.config.layer_types = ["full_attention", "sliding_attention"]  # its attention says otherwise
    assert layout.packed(model) == "its attention layers are not told of their windows"


def test_what_settles_a_layout_draws_nothing_and_moves_nothing(fp32):
    model = built("llama", "soft-prompt")
    state, before = torch.random.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    layout.settle(model.train(), list(model.parameters()), packing=False)
    assert torch.equal(torch.random.get_rng_state(), state) and model.training
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "reason"), [("llama", ""), ("gemma2", "its logits are changed behind"),
                                              ("gpt_neo", "")])  # fmt: skip
def test_the_head_is_taken_alone_only_where_its_product_is_the_logits(kind, reason):
    found = layout.head_last(built(kind))
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize(("kind", "method", "reason"), [
    ("llama", "prefix", ""), ("gpt_neo", "soft-prompt", ""), ("lfm2", "soft-prompt", ""),
    ("lfm2", "prefix", "ValueError: Cannot get conv state"), ("mixtral", "prefix", ""),
])  # fmt: skip
def test_shapes_alone_show_that_a_model_can_not_take_what_a_method_puts_before_a_document(kind, method, reason):
    with torch.device("meta"):
        model = peft.get_peft_model(AutoModelForCausalLM.from_config(configured(kind)), VIRTUAL[method])
    found = layout.unreadable(model)
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("kind", "packing", "said"),
    [
        ("llama", True, "in one row"),
        ("llama", False, "padded while training, padded while writing: engine.packing is off"),
        ("rwkv", True, "padded while training, each by itself while writing: its attention can't be replaced"),
    ],
)
def test_a_report_is_told_how_documents_stood_together_and_why(kind, packing, said):
    model = built(kind)
    layout.settle(model, [], packing)
    assert layout.summary(layout.answers(model), packing).startswith(said)
