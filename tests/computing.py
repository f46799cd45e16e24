"""The parts of a run as one call each, for tests that ask nothing of what stands between them."""

from bakeoff import engine
from bakeoff.data.encoding import Encoded
from bakeoff.runs import generation, training


def loss_of(model, examples: list[Encoded], pad, where):
    """Nats, summed over the label tokens of `examples`."""
    return engine.make(where, pad).loss(model, examples)


def mean_loss(model, examples, recipe, where, pad):
    """Nats per label token of `examples`."""
    return training.mean_loss(engine.make(where, pad), model, examples, recipe.micro_batch_size)


def fine_tune(model, train, validation, recipe, where, *, seed, pad, clock, **others):
    """Trains `model`."""
    return training.fine_tune(
        engine.make(where, pad), model, train, validation, recipe, seed=seed, clock=clock, **others
    )


def summarise(model, tokenizer, prompts, limit, settings, where, **others):
    """Summary by place in `prompts`, and the number of tokens written."""
    made = engine.make(where, tokenizer.pad_token_id)
    return generation.summarise(made, model, tokenizer, prompts, limit, settings, **others)


def writing(model, where):
    """Weights as decoding wants them."""
    return engine.make(where, 0).writing(model)


def loss_sum(model, batch, where):
    """Nats, summed over the label tokens of a batch."""
    return engine.make(where, 256).batch_loss(model, batch)


def products_in(where):
    """Products in the run's precision."""
    return engine.make(where, 0).products()
