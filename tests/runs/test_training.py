"""The one training loop."""

import dataclasses
import itertools
import math

import pytest
import torch
from computing import fine_tune, loss_sum, mean_loss

from bakeoff import engine
from bakeoff.config.schema import Computation, DurabilitySettings, TrainingSettings
from bakeoff.core.errors import Diverged
from bakeoff.engine.batches import by_size, collate
from bakeoff.methods.selection import select
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.runs.resources import Clock
from bakeoff.runs.training import learning_rate_factor

METHODS = {entry.name: entry for entry in select(["all"])}


def attached(tiny, name="lora", seed=0, **hyperparameters):
    model, tokenizer = tiny()
    torch.manual_seed(seed)
    return METHODS[name].kind(**hyperparameters).attach(model, tokenizer)


def train(model, encoded, fp32, seed=0, validation=None, **changes):
    recipe = TrainingSettings(**{"batch_size": 4, "micro_batch_size": 4, "epochs": 2, "learning_rate": 1e-2, **changes})
    return fine_tune(model, encoded, validation or encoded[:2], recipe, fp32, seed=seed, pad=256, clock=Clock())


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def gradient(model, encoded, fp32, size):
    model.zero_grad()
    labels = sum(len(example.ids) - example.prompt for example in encoded)
    for micro in by_size(encoded, size):
        (loss_sum(model, collate(micro, 256), fp32) / labels).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_no_micro_batch_size_changes_the_gradient(tiny, encoded, fp32, name):
    model = attached(tiny, name)
    one, four, eight = (gradient(model, encoded, fp32, size) for size in (1, 4, 8))
    assert torch.norm(one - eight) < 1e-5 * torch.norm(eight)
    assert torch.norm(four - eight) < 1e-5 * torch.norm(eight)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "full"])
def test_the_loss_is_transformers_own(tiny, encoded, fp32, name):
    model = attached(tiny, name)
    batch = collate(encoded, 256)
    labels = torch.full_like(batch.input_ids, -100)
    labels[torch.roll(batch.predicts, 1, dims=1)] = batch.labels
    theirs = model(input_ids=batch.input_ids, labels=labels).loss
    ours = loss_sum(model, batch, fp32) / len(batch.labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_padding_changes_no_loss(tiny, encoded, fp32):
    model = attached(tiny)
    alone = sum(loss_sum(model, collate([example], 256), fp32).item() for example in encoded)
    assert loss_sum(model, collate(encoded, 256), fp32).item() == pytest.approx(alone, rel=1e-6)


def test_training_lowers_the_loss_and_leaves_frozen_weights_alone(tiny, encoded, fp32):
    model = attached(tiny)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    curves = train(model, encoded, fp32, epochs=5)
    assert curves.epochs[-1]["training_loss"] < curves.epochs[1]["training_loss"]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_the_same_seed_repeats_to_the_bit(tiny, encoded, fp32):
    first, second = (attached(tiny) for _ in range(2))
    assert train(first, encoded, fp32).steps == train(second, encoded, fp32).steps
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


def test_another_seed_trains_in_another_order_and_starts_from_other_weights(tiny, encoded, fp32):
    assert not torch.equal(
        *(torch.cat([w.flatten() for w in weights(attached(tiny, seed=s)).values()]) for s in (0, 1))
    )
    losses = [[step["loss"] for step in train(attached(tiny), encoded, fp32, seed=seed).steps] for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_the_best_checkpoint_is_the_one_that_is_left(tiny, encoded, fp32):
    model = attached(tiny, "full")
    recipe = {"epochs": 8, "learning_rate": 1.0, "schedule": "constant", "warmup": 0.0}
    curves = train(model, encoded, fp32, validation=encoded[6:], **recipe)
    best = min(row["validation_loss"] for row in curves.epochs[1:])
    assert best < curves.epochs[-1]["validation_loss"], "the recipe must overshoot for this test to mean anything"
    left = mean_loss(model, encoded[6:], TrainingSettings(micro_batch_size=4), fp32, 256)
    assert left == pytest.approx(best, rel=1e-6)
    assert [row["validation_loss"] for row in curves.epochs if row["best"]] == [best]


def test_a_loss_that_is_not_finite_stops_with_its_step(tiny, encoded, fp32):
    model = attached(tiny, "full")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(Diverged, match="step 1 of 4"):
        train(model, encoded, fp32)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_with_its_step(tiny, encoded, fp32, clip):
    model = attached(tiny, "full")
    model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match=r"norm is .* at step 1 of 4"):
        train(model, encoded, fp32, gradient_clip=clip)


def test_learning_rate_zero_moves_nothing(tiny, encoded, fp32):
    model = attached(tiny)
    before = weights(model)
    train(model, encoded, fp32, learning_rate=0.0)
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())


def test_no_epochs_train_nothing(tiny, encoded, fp32):
    model = attached(tiny)
    before = weights(model)
    assert train(model, encoded, fp32, epochs=0).steps == []
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())


def test_the_optimizer_holds_what_is_trained(tiny, encoded, fp32):
    model = attached(tiny)
    assert train(model, encoded, fp32).optimizer_parameters == sum(w.numel() for w in weights(model).values())


def test_weight_decay_reaches_the_optimizer(tiny, encoded, fp32):
    plain, decayed = attached(tiny, "full"), attached(tiny, "full")
    train(plain, encoded, fp32)
    train(decayed, encoded, fp32, weight_decay=0.5)
    norms = [sum(w.norm() ** 2 for w in weights(model).values()) for model in (plain, decayed)]
    assert norms[1] < norms[0]


def test_gradient_clipping_bounds_the_norm_and_zero_turns_it_off(tiny, encoded, fp32, monkeypatch):
    seen = []
    real = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        seen.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm().item())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(attached(tiny, "full"), encoded, fp32, gradient_clip=0.01, epochs=1)
    assert max(seen) <= 0.0101
    seen.clear()
    train(attached(tiny, "full"), encoded, fp32, gradient_clip=0.0, epochs=1)
    assert max(seen) > 0.0101


@pytest.mark.parametrize("schedule, last", [("linear", 0.1), ("constant", 1.0)])
def test_the_learning_rate_rises_then_follows_its_schedule(schedule, last):
    recipe = TrainingSettings(schedule=schedule, warmup=0.2)
    factors = [learning_rate_factor(step, 10, recipe) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[-1] == pytest.approx(last, abs=0.03)
    assert all(a >= b for a, b in itertools.pairwise(factors[2:]))


def test_every_second_is_booked_once():
    clock = Clock()
    with clock("training"):
        with clock("validation"):
            pass
        assert clock.phase == "training"
    assert clock.seconds["training"] >= 0 and clock.phase == "start"
    before = clock.seconds["training"]
    with clock("validation"):
        sum(range(200_000))
    assert clock.seconds["training"] == before and clock.seconds["validation"] > 0


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["lora", "soft-prompt", "full"])
def test_logits_of_labelled_positions_give_the_loss_and_gradient_of_all(tiny, encoded, fp32, packed, name):
    model = attached(tiny, name)
    sizes, found = [], []
    model.get_output_embeddings().register_forward_hook(lambda module, given, out: sizes.append(out[..., 0].numel()))
    batch = collate(encoded, 256, packed=packed)
    for labels_only in (True, False):
        model.zero_grad()
        loss = loss_sum(model, batch, dataclasses.replace(fp32, fused=False, labels_only=labels_only))
        loss.backward()
        found.append((loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)))
    assert sizes == [len(batch.labels), batch.predicts.numel()]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


def test_activations_that_are_computed_again_give_the_same_gradient_from_less_memory(tiny, encoded):
    found, kept = [], []
    where = Computation(device="cpu", precision="fp32", attention="sdpa", threads=1, engine="cuda", fused=False,
                        compiled=False, shared_prefix=False)  # fmt: skip
    for again in (False, True):
        model, tokenizer = tiny()
        torch.manual_seed(0)
        model = METHODS["lora"].kind().attach(model, tokenizer)
        made = engine.make(dataclasses.replace(where, checkpoint_activations=again), 256)
        with made.prepared(model, []) as model:
            held = {}

            def keep(tensor, held=held):
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = made.loss(model.train(), encoded)
            kept.append(sum(held.values()))
            loss.backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(*found) and kept[1] < kept[0] / 2


def test_moments_in_eight_bits_are_resumed_to_the_bit(tiny, encoded, fp32, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    found, large = [], {"hidden_size": 64}  # bitsandbytes leaves tensors of less than 4,096 numbers in fp32

    def stop(news):
        if news.get("step") == 3:
            raise InterruptedError

    for folder, emit in ((None, None), (tmp_path, stop), (tmp_path, None)):
        model, tokenizer = tiny(**large)
        torch.manual_seed(0)
        model = METHODS["lora"].kind(rank=64).attach(model, tokenizer)
        recipe = TrainingSettings(epochs=2, batch_size=2, optimizer="adamw8bit", learning_rate=1e-2)
        settings = DurabilitySettings(checkpoint_steps=1)
        try:
            curves = fine_tune(
                model, encoded, encoded[:2], recipe, fp32, seed=0, pad=256, clock=Clock(),
                emit=emit or (lambda news: None), checkpointer=Checkpointer(folder, settings) if folder else None,
            )  # fmt: skip
            found.append([row["loss"] for row in curves.steps])
        except InterruptedError:
            pass
    assert found[0] == found[1] and found[0][-1] < found[0][0]
