"""What a user would otherwise run: transformers' Trainer with PEFT, then `generate`."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
from transformers import GenerationConfig, Trainer, TrainingArguments

from bakeoff.config.schema import Computation
from bakeoff.data.encoding import Encoded
from bakeoff.engine.batches import by_size
from bakeoff.models import loading
from bakeoff.runs.training import learning_rate_factor, windows


def load(base: Any, method: Any, seed: int, where: Computation) -> tuple[Any, Any]:
    """The same safetensors copy in fp32 with its default attention, and the method attached from the same seed."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(where.threads)
    model, tokenizer = loading.load(base.settings, base.source, base.folder, None)
    return method.attach(model, tokenizer).to(where.device), tokenizer


class Order(torch.utils.data.Sampler):
    """Bakeoff's documents in Bakeoff's order: the same ones in every optimizer step, by length inside it."""

    def __init__(self, examples: Sequence[Encoded], recipe: Any, seed: int) -> None:
        self.examples, self.recipe = examples, recipe
        self.draw = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[int]:
        for window in windows(len(self.examples), self.recipe.batch_size, self.draw):
            place = {id(self.examples[number]): number for number in window}
            for micro in by_size([self.examples[number] for number in window], self.recipe.micro_batch_size):
                yield from (place[id(example)] for example in micro)


class Recorder(Trainer):
    """A Trainer that keeps the loss of every micro-batch, counts its tokens, and takes its documents in an order."""

    order: Order | None = None
    parts: list[torch.Tensor]
    tokens: list[torch.Tensor]

    def training_step(self, model: Any, inputs: Any, *others: Any, **keywords: Any) -> torch.Tensor:
        """Trainer's own, remembered."""
        self.tokens.append(inputs["attention_mask"].sum())
        loss = super().training_step(model, inputs, *others, **keywords)
        self.parts.append(loss)
        return loss

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return self.order or super()._get_train_sampler(*arguments)


def train(bench: Any, *, bf16: bool, grouped: bool, folder: str) -> tuple[list[float], int]:
    """Loss by optimizer step and tokens of Trainer with `bench`'s recipe; `grouped`: by its own group_by_length."""
    recipe = bench.recipe
    size = min(recipe.micro_batch_size, recipe.batch_size)
    if recipe.batch_size % size or len(bench.train) % recipe.batch_size:
        raise ValueError("the micro-batch must divide the effective batch, and that the number of documents")
    trained = [parameter for parameter in bench.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2),
                                  weight_decay=recipe.weight_decay, fused=True)  # fmt: skip
    total = recipe.epochs * (len(bench.train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, recipe))
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=size, gradient_accumulation_steps=recipe.batch_size // size,
        per_device_eval_batch_size=size, num_train_epochs=recipe.epochs, max_grad_norm=recipe.gradient_clip, bf16=bf16,
        train_sampling_strategy="group_by_length" if grouped else "random", eval_strategy="epoch", eval_on_start=True,
        prediction_loss_only=True, save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="epoch",
        use_cpu=bench.where.device == "cpu", dataloader_pin_memory=bench.where.device == "cuda", seed=bench.seed,
        remove_unused_columns=False,
    )  # fmt: skip
    if arguments.n_gpu > 1:  # Bakeoff computes on one
        arguments._n_gpu = 1
    trainer = Recorder(
        model=bench.model, args=arguments, optimizers=(optimizer, schedule),
        train_dataset=[row(example) for example in bench.train],
        eval_dataset=[row(example) for example in bench.validation],
        data_collator=lambda rows: collate(rows, bench.tokenizer.pad_token_id),
    )  # fmt: skip
    trainer.parts, trainer.tokens = [], []
    if not grouped:
        trainer.order = Order(bench.train, recipe, bench.seed)
    trainer.train()
    parts, share = [part.item() for part in trainer.parts], recipe.batch_size // size
    losses = [sum(parts[start : start + share]) for start in range(0, len(parts), share)]
    return losses, int(sum(trainer.tokens))


def row(example: Encoded) -> dict[str, list[int]]:
    """A document as Trainer takes it: ids, and labels that are -100 on the prompt."""
    ids = list(example.ids)
    return {"input_ids": ids, "labels": [-100] * example.prompt + ids[example.prompt :]}


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Dynamic padding on the right with its mask, as DataCollatorForSeq2Seq does it."""
    length = max(len(row["input_ids"]) for row in rows)
    filled = {"input_ids": pad, "labels": -100}
    batch = {key: torch.tensor([row[key] + [fill] * (length - len(row[key])) for row in rows])
             for key, fill in filled.items()}  # fmt: skip
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    return {**batch, "attention_mask": (torch.arange(length) < sizes[:, None]).long()}


def for_use(model: Any) -> Any:
    """LoRA added to the weights that it stands beside, as PEFT's users do before they generate; others as they are."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def write(model: Any, tokenizer: Any, prompts: Sequence[list[int]], limit: int, size: int) -> tuple[list[str], int]:
    """Greedy texts in order by `generate`, `size` prompts of similar length at a time, and their number of tokens."""
    model.eval()
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = GenerationConfig(max_new_tokens=limit, do_sample=False, num_beams=1, eos_token_id=end, pad_token_id=pad)
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    texts, tokens = [""] * len(prompts), 0
    for start in range(0, len(places), size):
        some = places[start : start + size]
        length = max(len(prompts[place]) for place in some)
        ids = torch.tensor([[pad] * (length - len(prompts[place])) + prompts[place] for place in some])
        mask = torch.tensor([[0] * (length - len(prompts[place])) + [1] * len(prompts[place]) for place in some])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
        for place, written in zip(some, output[:, length:].tolist(), strict=True):
            stop = written.index(end) if end in written else len(written)
            tokens += min(stop + 1, len(written))
            texts[place] = tokenizer.decode(written[:stop], skip_special_tokens=True).strip()
    return texts, tokens
