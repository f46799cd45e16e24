"""Every method on every architecture: it attaches and counts right, or is refused in one line before the first run."""

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import AutoModelForCausalLM

from bakeoff.config import presets
from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.engine.virtual import virtual_tokens
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import load_file
from bakeoff.methods.selection import select
from bakeoff.methods.targets import target_layers
from bakeoff.models import blueprint, loading, positions
from bakeoff.runs import adapters
from bakeoff.runs.attaching import fitted
from bakeoff.session import plan

SIZE = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**SIZE, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64}
GROUPED = {**HEADS, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {**SIZE, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64}
SOME = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ARCHITECTURES = {
    "gpt2": GPT, "gpt_bigcode": GPT, "openai-gpt": GPT, "gptj": {**GPT, "rotary_dim": 4},
    "codegen": {**GPT, "rotary_dim": 4}, "ctrl": {**GPT, "dff": 48}, "gpt_neox": HEADS, "phi": HEADS, "biogpt": HEADS,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "max_position_embeddings": 64, "window_size": 16},
    "opt": {**OPT, "word_embed_proj_dim": 16}, "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}, "persimmon": HEADS,
    "falcon": {**SIZE, "num_attention_heads": 4}, "stablelm": GROUPED, "nemotron": GROUPED, "llama": GROUPED,
    "phi3": GROUPED, "mistral": GROUPED, "qwen2": GROUPED, "qwen3": WIDE, "gemma": WIDE, "gemma2": WIDE,
    "gemma3_text": WIDE, "starcoder2": GROUPED, "olmo": GROUPED, "olmo2": GROUPED, "granite": GROUPED,
    "cohere": GROUPED, "cohere2": GROUPED, "smollm3": GROUPED, "glm4": WIDE,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "qwen2_moe": {**GROUPED, **SOME, "shared_expert_intermediate_size": 24}, "qwen3_moe": {**GROUPED, **SOME},
    "deepseek_v3": {**GROUPED, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
                    "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "mamba": {**SIZE, "state_size": 8},
    "mamba2": {**SIZE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "rwkv": {**SIZE, "attention_hidden_size": 32, "intermediate_size": 48}, "lfm2": GROUPED,
    "recurrent_gemma": {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                        "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16},
}  # fmt: skip
METHODS = {entry.name: entry for entry in select(["all", "null"]) if entry.needs_model}


def of(kind, **changes):
    """Settings of a tiny model of the architecture `kind`."""
    values = {"model_type": kind, "vocab_size": 257, "bos_token_id": 1, "eos_token_id": 1}
    return ModelSettings(name="random", architecture={**values, **ARCHITECTURES[kind], **changes})


def builder(chosen, folder=None):
    return blueprint.builder(chosen, folder, blueprint.vocabulary(chosen, folder))


def fit(name, chosen, folder=None, **hyperparameters):
    """What the plan finds: method, counts and the model with the method attached."""
    entry = METHODS[name]
    return fitted(entry, entry.kind(**hyperparameters), builder(chosen, folder), "tiny")


def complaint(call, *arguments, **keywords):
    """The one line that a call answers with."""
    with pytest.raises(UsageError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Architectures


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_shipped_method_attaches_to_every_architecture_and_counts_right(kind):
    base = builder(of(kind))
    for entry in METHODS.values():
        fitted(entry, entry.kind(), base, kind)
    shapes = shapes_of(base("meta"))
    assert (
        shapes[f"{shapes.head}.weight"] == shapes[f"{shapes.embedding}.weight"] == (257, shapes.linear[shapes.head][0])
    )
    for hyperparameters in ({"targets": "all-linear"}, {"targets": (shapes.head,)}, {"targets": (shapes.embedding,)}):
        if hyperparameters["targets"] == "all-linear" and kind.startswith("mamba"):
            continue  # refused: PEFT says why
        fitted(METHODS["lora"], METHODS["lora"].kind(**hyperparameters), base, kind)
    fitted(METHODS["last-layer"], METHODS["last-layer"].kind(untie=True), base, kind)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "bloom", "falcon", "mpt", "llama", "phi", "rwkv", "qwen3"])
def test_default_targets_are_those_of_peft(kind):
    method, counts, _ = fit("lora", of(kind))
    by_peft = get_peft_model(loading.meta_model(of(kind)), LoraConfig(task_type="CAUSAL_LM", r=16))
    assert set(method.targets) == set(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[kind])
    assert counts.trainable == by_peft.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("kind, expected", [("phi3", ("qkv_proj",)), ("mamba", ("in_proj",)),
                                            ("olmo2", ("q_proj", "v_proj")), ("persimmon", ("query_key_value",)),
                                            ("ctrl", ("Wq", "Wv"))])  # fmt: skip
def test_architectures_that_peft_does_not_list_have_default_targets(kind, expected):
    assert fit("lora", of(kind))[0].targets == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "bloom", "qwen2_moe"])
def test_all_linear_is_every_linear_layer_but_the_head(kind):
    config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
    by_peft = get_peft_model(loading.meta_model(of(kind)), config)
    assert fit("lora", of(kind), targets="all-linear")[1].trainable == by_peft.get_nb_trainable_parameters()[0]


def test_conv1d_counts_as_it_lies():
    sizes = target_layers(("c_attn", "c_fc"), shapes_of(loading.meta_model(of("gpt2"))))
    assert set(sizes.values()) == {(32, 96), (32, 128)}
    assert fit("lora", of("gpt2"), rank=4)[1].trainable == 2 * 4 * (32 + 96)


@pytest.mark.parametrize("kind, targets", [("qwen3_moe", ("q_proj", "gate_proj", "up_proj", "down_proj")),
                                           ("mixtral", ("q_proj", "w1", "w2", "w3")), ("qwen3_moe", ("gate",)),
                                           ("qwen2_moe", ("gate_proj", "up_proj"))])  # fmt: skip
def test_experts_are_counted_where_peft_adapts_them(kind, targets):
    config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=list(targets))
    by_peft = get_peft_model(loading.meta_model(of(kind)), config)
    assert fit("lora", of(kind), targets=targets)[1].trainable == by_peft.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    "kind, targets, expected",
    [
        (
            "llama",
            ("q_proj", "W_pack"),
            "'W_pack' is no linear layer of this model; its linear layers are q_proj, k_proj",
        ),
        ("gpt2", ("q_proj",), "its linear layers are c_attn, c_proj, c_fc, lm_head"),
        ("mixtral", ("q_proj", "gate_proj"), "'gate_proj' is no linear layer"),
        ("qwen3_moe", ("q_proj", "w1"), "'w1' is no linear layer"),
        ("qwen3_moe", ("gate_proj",), "without also targeting up_proj"),
        ("llama", ("self_attn",), "'self_attn' is no linear layer"),
        ("llama", ("proj",), "'proj' is no linear layer"),
        ("llama", (), "targets is empty"),
        ("mamba", "all-linear", "'out_proj' is incompatible with Mamba-based models"),
    ],
)
def test_a_target_that_names_nothing_is_named_with_the_layers_that_exist(kind, targets, expected):
    assert expected in complaint(fit, "lora", of(kind), targets=targets)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_beside_the_head_counts_saves_and_loads_the_same_tied_or_not(tiny, tmp_path, tied):
    model, _ = tiny(tie_word_embeddings=tied)
    shapes = shapes_of(model)
    method = METHODS["lora"].kind(targets=("lm_head",))
    embedding = model.get_input_embeddings().weight.detach().clone()
    attached = method.attach(model, None)
    expected = method.expected_parameters(shapes)
    assert expected == count(attached, shapes) and expected.trainable == 16 * (32 + 257)
    assert expected.with_ties().total == expected.total + (257 * 32 if tied else 0)
    with torch.no_grad():
        for parameter in attached.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert adapters.saved_parameters(adapters.save(attached, tmp_path)) == expected.trainable
    again = method.attach(tiny(tie_word_embeddings=tied)[0], None)
    adapters.load(again, tmp_path)
    ids = torch.arange(10).reshape(1, 10)
    assert torch.equal(again(ids).logits, attached(ids).logits)
    assert torch.equal(attached.get_input_embeddings().weight, embedding)


@pytest.mark.parametrize("kind", ["opt", "mamba", "mpt", "xglm", "rwkv"])
def test_a_soft_prompt_is_as_wide_as_the_embedding_and_computes(kind):
    torch.manual_seed(0)
    model, _ = loading.load(of(kind), loading.locate(of(kind)), None, "eager")
    width = model.get_input_embeddings().weight.shape[1]
    attached = METHODS["soft-prompt"].kind(virtual_tokens=3).attach(model, None)
    assert attached.prompt_encoder.default.embedding.weight.shape == (3, width)
    assert attached(torch.arange(10).reshape(1, 10)).logits.shape == (1, 13, 257)


# Positions


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gptj", "codegen", "ctrl", "openai-gpt", "opt", "biogpt", "mpt",
                                  "xglm", "bloom", "llama", "phi", "falcon", "mamba", "rwkv",
                                  "recurrent_gemma"])  # fmt: skip
def test_a_table_of_positions_ends_where_the_model_fails(kind):
    config = loading.configuration(of(kind), 257)
    model = AutoModelForCausalLM.from_config(config).eval()

    @torch.no_grad()
    def works(length):
        try:
            return bool(model(input_ids=torch.ones(1, length, dtype=torch.long), use_cache=False))
        except (IndexError, RuntimeError):
            return False

    assert works(64)
    assert positions.table_size(loading.meta_model(of(kind))) == (0 if works(65) else 64)


def room(kind, *tokens, **changes):
    """What a bake-off says of a run with so many tokens of prompt, virtual and target ones."""
    return positions.check(loading.meta_model(of(kind, **changes)), "method 'x'", "tiny", *tokens)


def test_tokens_beyond_a_table_of_positions_are_refused_with_what_to_type():
    assert room("gpt2", 40, 0, 24) == ""
    found = complaint(room, "gpt2", 40, 4, 24)
    assert "40 tokens of prompt, 4 virtual, 24 of summary make 68, and tiny has 64 positions" in found
    assert found.endswith("type --set task.max_input_tokens=36")
    assert complaint(room, "gpt2", 40, 4, 56).endswith("type a lower task.max_target_tokens")


@pytest.mark.parametrize(
    "kind, rope",
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}),
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}),
    ],
)  # fmt: skip
def test_rope_that_depends_on_the_longest_document_is_refused_beyond_its_context(kind, rope):
    changes = {"rope_parameters": {"rope_theta": 1e4, **rope}}
    changes.update({"original_max_position_embeddings": 64} if kind == "phi3" else {})
    assert room(kind, 40, 0, 24, **changes) == ""
    assert "beyond 64 the rotary positions of tiny depend on the longest" in complaint(room, kind, 41, 0, 24, **changes)


def test_plain_rope_beyond_what_a_model_was_made_for_is_said():
    assert room("llama", 40, 0, 24) == ""
    assert "make 65; tiny computes them, though it was made for 64" in room("llama", 41, 0, 24)


# Methods of others

METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts


@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"

    def attach(self, model, tokenizer):
        import torch
        from peft import AdaLoraConfig, LoraConfig, TrainableTokensConfig, VeraConfig, get_peft_model
        %s

    def expected_parameters(self, shapes):
        rank, names = 4, (".q_proj.weight", ".v_proj.weight")
        inputs, outputs = (sum(shapes[name][axis] for name in shapes if name.endswith(names)) for axis in (1, 0))
        added, trained = %s
        total = shapes.total + added
        return ParameterCounts(total=total, trainable=trained, frozen=total - trained, added=added, tied=shapes.tied)
"""
PEFT = 'return get_peft_model(model, {}(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], {}))'
TOKENS = 'return get_peft_model(model, TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[1, 2, 3]))'
FROZEN = """found = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4))
        for name, parameter in found.named_parameters():
            parameter.requires_grad_("lora_B" in name)
        return found"""
DORA = "rank * (inputs + outputs) + outputs, rank * (inputs + outputs) + outputs"
LORA = "rank * (inputs + outputs), rank * (inputs + outputs)"


@pytest.fixture
def attach(tmp_path):
    """A function that fits a method, given as two pieces of code, to a tiny Llama: what attach does, what it counts."""

    def build(body, counts=LORA, **changes):
        file = tmp_path / "mine.py"
        file.write_text(METHOD % (body, counts))
        [entry] = load_file(file)
        return fitted(entry, entry.kind(), builder(of("llama", **changes)), "tiny")

    return build


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "body, counts",
    [
        (PEFT.format("LoraConfig", 'r=4, init_lora_weights="pissa"'), LORA),
        (PEFT.format("LoraConfig", 'r=4, init_lora_weights="olora"'), LORA),
        (PEFT.format("LoraConfig", "r=4, use_dora=True"), DORA),
        (PEFT.format("VeraConfig", "r=4"), "4 * rank + outputs, 4 * rank + outputs"),
        (TOKENS, "3 * 32, 3 * 32"),
    ],
    ids=["pissa", "olora", "dora", "vera", "trainable-tokens"],
)  # fmt: skip
def test_a_method_that_needs_or_changes_values_is_counted_with_values(attach, body, counts, tied):
    assert attach(body, counts, tie_word_embeddings=tied)[1].trainable > 0


@pytest.mark.parametrize(
    "body, counts, expected",
    [
        (PEFT.format("LoraConfig", "r=5"), LORA, "896 by expected_parameters, 1,120 attached"),
        (
            PEFT.format("LoraConfig", "r=4"),
            "rank * (inputs + outputs), 1",
            "trainable 1 by expected_parameters, 896",
        ),
        (
            PEFT.format("AdaLoraConfig", "init_r=4, total_step=10"),
            LORA,
            "AdaLoRA prunes after every optimizer step, and",
        ),
        (PEFT.format("LoraConfig", 'r=4, init_lora_weights="pissa_niter_4"'), LORA, "at random numbers"),
        (FROZEN, "rank * (inputs + outputs), rank * outputs", "lora_A.default.weight at random numbers"),
        ("return model.requires_grad_(False)", "0, 0", "it leaves nothing to train"),
        ("return model.no_such_thing()", "0, 0", "AttributeError: 'LlamaForCausalLM' object has no attribute"),
        ("torch.nn.Linear(2, 2)(torch.ones(3))", "0, 0", "RuntimeError"),
    ],
    ids=["rank", "trainable", "adalora", "random-svd", "lora-fa", "nothing", "attribute", "error"],
)
def test_a_method_that_cannot_be_what_it_says_is_refused_in_one_line(attach, body, counts, expected):
    found = complaint(attach, body, counts)
    assert found.startswith("method 'mine' can't attach to tiny: ") and expected in found


@pytest.mark.parametrize("name", METHODS)
def test_a_shipped_method_is_counted_without_values(name):
    assert {tensor.device.type for tensor in fit(name, of("llama"))[2].parameters()} == {"meta"}


def test_virtual_tokens_are_those_before_the_prompt():
    assert virtual_tokens(fit("soft-prompt", of("llama"), virtual_tokens=7)[2]) == 7
    assert virtual_tokens(fit("lora", of("llama"))[2]) == 0


# The plan


def probed(tmp_path, architecture, *names, **documents):
    """What the plan finds out about `names` on a model of this architecture, for the documents of `smoke`."""
    chosen = presets.load("smoke", changes=["engine.compiled=false", "machine.precision=fp32"])
    asked = dataclasses.replace(chosen.task, max_input_tokens=96, max_target_tokens=32, **documents)
    methods = [(name, name, str(METHODS[name].file), {}) for name in names]
    (tmp_path / "models").mkdir(exist_ok=True)
    model = of(architecture, **POSITIONS.get(architecture, {}))
    settled = dataclasses.replace(chosen, model=model, task=asked)
    return plan.probe(plan.sections(settled), methods, str(tmp_path / "models"), print)


POSITIONS = {"gpt2": {"n_positions": 128}, "llama": {"max_position_embeddings": 128}}


def test_a_plan_refuses_the_method_whose_tokens_have_no_position(tmp_path):
    assert probed(tmp_path, "gpt2", "full")["notes"] == []
    found = complaint(probed, tmp_path, "gpt2", "full", "soft-prompt")
    assert found == (
        "method 'soft-prompt': 96 tokens of prompt, 20 virtual, 32 of summary make 148, and random has 128 positions; "
        "type --set task.max_input_tokens=76"
    )


def test_a_plan_holds_what_the_model_decides_and_says_what_it_was_not_made_for(tmp_path):
    found = probed(tmp_path, "llama", "full", "lora", "soft-prompt")
    assert found["methods"]["lora"]["targets"] == ["q_proj", "v_proj"]
    [note] = found["notes"]
    assert note.startswith("method 'soft-prompt': ") and note.endswith(
        "random computes them, though it was made for 128"
    )
