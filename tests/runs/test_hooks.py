"""What a method may say while it is trained: parameter groups, a penalty, a word after each step, a start from data."""

from types import SimpleNamespace

import pytest
import torch
from computing import fine_tune

from bakeoff import ParameterGroup
from bakeoff.config.schema import TrainingSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.registry import known_methods
from bakeoff.runs import pipeline
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.runs.hooks import Hooks
from bakeoff.runs.resources import Clock
from bakeoff.runs.training import learning_rate_factor

METHODS = known_methods()
RECIPE = TrainingSettings(batch_size=2, micro_batch_size=1, epochs=3, learning_rate=1e-2, weight_decay=0.1)


def attached(tiny, name, **hyperparameters):
    model, tokenizer = tiny()
    torch.manual_seed(0)
    method = METHODS[name].kind(**hyperparameters)
    return method, method.attach(model, tokenizer)


def trained(tiny, encoded, fp32, method, model, recipe=RECIPE, **others):
    return fine_tune(model, encoded, encoded[:3], recipe, fp32, seed=7, pad=256, clock=Clock(), method=method, **others)


def test_parameters_have_the_learning_rate_and_decay_of_their_group(tiny):
    _, model = attached(tiny, "lora")
    by_name = {"lora_B": ParameterGroup(16.0, 0.5), "lora_A": ParameterGroup()}
    method = SimpleNamespace(parameter_group=lambda name: next(g for part, g in by_name.items() if part in name))
    slow, fast = Hooks(model, method).parameter_groups(RECIPE)
    assert (slow["lr"], slow["weight_decay"], fast["lr"], fast["weight_decay"]) == (1e-2, 0.1, 16e-2, 0.05)
    named = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in fast["params"]} == {key for name, key in named.items() if "lora_B" in name}
    assert {id(p) for p in slow["params"]} == {key for name, key in named.items() if "lora_A" in name}


def test_b_of_lora_plus_moves_by_its_own_rate_and_the_curve_shows_the_recipes(tiny, encoded, fp32):
    method, model = attached(tiny, "lora-plus", ratio=4.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    recipe = TrainingSettings(batch_size=8, micro_batch_size=8, epochs=1, learning_rate=1e-3, warmup=0.0)
    curves = trained(tiny, encoded[:8], fp32, method, model, recipe)
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in model.named_parameters()
             if p.requires_grad}  # fmt: skip
    # Adam's first step is as long as the learning rate, wherever the gradient is not 0.
    assert max(value for name, value in moved.items() if "lora_B" in name) == pytest.approx(4e-3, rel=1e-3)
    assert max(value for name, value in moved.items() if "lora_A" in name) <= 1e-3 * 1.001
    assert [row["learning_rate"] for row in curves.steps] == [1e-3]


def test_the_curve_shows_the_schedule(tiny, encoded, fp32):
    method, model = attached(tiny, "lora")
    steps = trained(tiny, encoded, fp32, method, model).steps
    expected = [RECIPE.learning_rate * learning_rate_factor(step, len(steps), RECIPE) for step in range(len(steps))]
    assert [row["learning_rate"] for row in steps] == expected


def test_a_penalty_moves_the_weights_and_no_curve_shows_it(tiny, encoded, fp32):
    def pull(model):
        return 100 * sum(p.square().sum() for name, p in model.named_parameters() if "lora_A" in name)

    norms, losses = [], []
    for method in (SimpleNamespace(), SimpleNamespace(penalty=pull)):
        _, model = attached(tiny, "lora")
        losses.append(trained(tiny, encoded, fp32, method, model).steps[0]["loss"])
        norms.append(sum(p.square().sum().item() for name, p in model.named_parameters() if "lora_A" in name))
    assert losses[0] == losses[1] and norms[1] < 0.9 * norms[0]


def test_a_word_after_every_step_while_the_gradients_are_there(tiny, encoded, fp32):
    told = []

    def after(model, step, steps):
        told.append((step, steps, all(p.grad is not None for p in model.parameters() if p.requires_grad)))

    _, model = attached(tiny, "lora")
    steps = len(trained(tiny, encoded, fp32, SimpleNamespace(after_step=after), model).steps)
    assert told == [(step, steps, True) for step in range(1, steps + 1)]


def test_adalora_prunes_to_its_budget_and_spends_it_where_it_matters(tiny, encoded, fp32):
    method, model = attached(tiny, "adalora", first_rank=6, rank=3, targets=("q_proj", "v_proj"))
    trained(tiny, encoded, fp32, method, model)
    left = [int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E" in name]
    assert sum(left) == 3 * len(left) and len(set(left)) > 1


def test_what_a_method_keeps_between_steps_is_in_its_checkpoints(tiny, encoded, fp32, tmp_path):
    class Killed(BaseException):
        pass

    def run(folder, dies=0):
        method, model = attached(tiny, "adalora", first_rank=6, rank=3)
        partial = Checkpointer(folder)
        partial.settings = partial.settings.__class__(checkpoint_steps=1)

        def tell(news):
            if news["phase"] == "training" and news["step"] == dies:
                raise Killed

        try:
            trained(tiny, encoded, fp32, method, model, checkpointer=partial, emit=tell)
        finally:
            partial.beside.shutdown()
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    whole = run(None)
    for dies in (3, 8):
        with pytest.raises(Killed):
            run(tmp_path, dies)
    again = run(tmp_path)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_eva_starts_from_the_directions_that_a_layer_reads_most(tiny):
    method, model = attached(tiny, "eva", rank=4, targets=("q_proj",))
    documents = [torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(n)) for n in range(3)]
    seen = []
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().flatten(0, -2)))
    method.initialise(model, documents)
    handle.remove()
    right = torch.linalg.svd(torch.cat(seen), full_matrices=False).Vh[:4]
    found = layer.lora_A["default"].weight.detach()
    assert torch.allclose((found @ right.T).abs(), torch.eye(4), atol=1e-3)  # the same directions, up to sign
    assert not layer.lora_B["default"].weight.any()


def test_a_start_that_changes_the_base_model_is_refused(tiny):
    _, model = attached(tiny, "lora")

    def initialise(model, documents):
        next(p for p in model.parameters() if not p.requires_grad).data += 1

    with pytest.raises(UsageError, match=r"initialise changed .*embed_tokens.* change it in attach"):
        pipeline.initialise(METHODS["lora"], SimpleNamespace(initialise=initialise), model, [])


@pytest.mark.parametrize(
    "losses, patience, trained_epochs",
    [([3, 2, 1, 1, 1], 0, 5), ([3, 2, 2, 1, 1], 1, 3), ([3, 2, 2, 1, 1], 2, 5), ([1, 2, 3, 4, 5], 2, 3)],
)
def test_training_ends_when_the_validation_loss_has_not_fallen(
    tiny, encoded, fp32, monkeypatch, losses, patience, trained_epochs
):
    left = iter([9.0, *map(float, losses)])
    monkeypatch.setattr("bakeoff.runs.training.mean_loss", lambda *arguments: next(left))
    _, model = attached(tiny, "lora")
    recipe = TrainingSettings(batch_size=4, micro_batch_size=4, epochs=5, patience=patience)
    curves = trained(tiny, encoded, fp32, None, model, recipe)
    assert curves.epochs[-1]["epoch"] == trained_epochs
    steps = len(curves.steps)
    last = recipe.learning_rate * learning_rate_factor(steps - 1, 5 * steps // trained_epochs, recipe)
    assert curves.steps[-1]["learning_rate"] == last  # the schedule is that of all epochs
