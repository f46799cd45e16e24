"""The cuda engine: documents in one row by flash attention, and writing by a graph, as far as a model allows."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from bakeoff.config.hardware import repeatable
from bakeoff.engine import layout
from bakeoff.engine.attention import Segments, row_logits
from bakeoff.engine.batches import Batch
from bakeoff.engine.cached_features import head_alone
from bakeoff.engine.cuda import fused, merged
from bakeoff.engine.cuda.decoding import READ, ROUND, Rows, capacity_for, write
from bakeoff.engine.cuda.varlen import ARGUMENTS, FixedCache, FixedPrefill, FixedStep, Varlen, flashes
from bakeoff.engine.packed import Packed, in_precision
from bakeoff.models.memory import fitting

FITTING = "_bakeoff_fitting"
"""The attribute of a model that holds how many tokens the GPU's memory has room for."""
ROWS = "_bakeoff_rows"
"""The attribute of a model, while it writes: the rows that it writes in."""


class Cuda(Packed):
    """What it can't do faster for a model, it does as `plain` does."""

    name = "cuda"

    def prepare(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None, steps: int = 0
    ) -> Any:
        """`model` as `prepared` gives it, with nothing patched."""
        added = list(added)
        model = super().prepare(model, added, known, steps)
        if self.packs(model):
            with self.products():
                if not layout.answer(model, "varlen", self.trains_and_joins):
                    layout.answer(model, "cached attention", partial(self.joins, by_flash=True))
            training = model.training
            if self.where.merged and merged.pairs(model.eval()):  # beside dropout a LoRA is no product of weights
                with layout.noisy(added), self.products():
                    layout.answer(model, "merged", partial(merged.unmergeable, memory=self.memory))
            if self.where.captured and not layout.answers(model)["varlen"]:
                with self.writing(model):
                    layout.answer(model, "captured", self.replays)
            model.train(training)
            if steps >= fused.REPAYS and not self.unfused and not self.by_kernels(model) and not self.trunk_once(model):
                test = partial(fused.unfusable, added=added, loss=self.loss, kind=self.kind, device=self.where.device)
                layout.answer(model, "fused", test)
        return model

    def trunk_once(self, model: Any) -> bool:
        """Whether decoder layers compute each document once, before training."""
        return self.where.cached_features and head_alone(model) is not None

    def row(self, model: Any) -> int:
        """Tokens of a micro-batch: those of the settings, or as many as the GPU's memory holds."""
        memory = self.memory
        if memory is None:
            return super().row(model)
        if FITTING not in vars(model):
            vars(model)[FITTING] = fitting(
                model, memory, precision=self.where.precision, again=self.where.checkpoint_activations,
                flash=flashes(model, self.kind),
            )  # fmt: skip
        return min(super().row(model), vars(model)[FITTING])

    @property
    def memory(self) -> int | None:
        """Bytes of the GPU; None on a processor."""
        if self.where.device != "cuda":
            return None
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)

    @property
    def kind(self) -> torch.dtype:
        """The type of products and of attention."""
        return torch.bfloat16 if self.where.precision == "bf16" else torch.float32

    def joins(self, model: Any, by_flash: bool) -> str:
        """Why documents can't be read and written by this engine's attention, which is held against each by itself.

        `by_flash`: see FixedStep.
        """
        device, kind, count = self.where.device, self.kind, len(layout.LENGTHS)
        cache = FixedCache(count, ROUND)
        return layout.together(
            model,
            partial(Varlen, device=device, kind=kind),
            lambda longer: FixedPrefill(longer, device, kind, cache, range(count)),
            lambda before: FixedStep(cache, torch.tensor([before], device=device), by_flash),
        )

    def trains_and_joins(self, model: Any) -> str:
        """Why documents can't be read together by this engine's attention, in training or in writing without flash."""
        return self.joins(model, by_flash=False) or self.has_gradient(model)

    def has_gradient(self, model: Any) -> str:
        """Why attention has no gradient here: some heads are too wide for that alone. Raises what a kernel raises."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            return ""
        texts = layout.documents(model)
        lengths, ids = [len(text) for text in texts], torch.tensor([[token for text in texts for token in text]])
        ids = ids.to(self.where.device)
        rows = partial(Varlen, device=self.where.device, kind=self.kind)
        with torch.enable_grad(), repeatable(self.where.device):
            logits = row_logits(model, ids, lengths, torch.ones_like(ids, dtype=torch.bool), rows)
            found = torch.autograd.grad(logits.float().logsumexp(-1).sum(), trained, allow_unused=True)
        finite = all(bool(torch.isfinite(one).all()) for one in found if one is not None)
        return "" if finite else "its gradient is not finite"

    def replays(self, model: Any) -> str:
        """Why the steps of writing can't be captured, or what a replayed graph writes otherwise."""
        found = []
        for captured in (False, True):
            rows = self.rows(model, len(layout.LENGTHS), ROUND, None)
            found.append(write(rows, layout.documents(model), READ, (), self.kind, captured))
        return "" if found[0] == found[1] else "a captured step does not write the tokens of one that is not"

    def rows(self, model: Any, count: int, capacity: int, barred: torch.Tensor | None) -> Rows:
        """Rows in which `model` writes."""
        by_flash = not layout.answers(model).get("cached attention")
        return Rows(model, count, capacity, barred, self.where.device, by_flash)

    def reason(self, model: Any) -> str:
        """See Engine."""
        if why := self.by_kernels(model):
            return why
        found = layout.answers(model)
        if why := found.get("captured", "") if self.where.captured else "engine.captured is off":
            return why
        if why := found.get("merged", "") if self.where.merged else "engine.merged is off":
            return why
        why = self.unfused or found.get("fused", "")
        return f"its layers are not compiled: {why}" if why else ""

    def by_kernels(self, model: Any) -> str:
        """Why documents are not read and written by flash attention; empty where they are."""
        if not self.where.packing:
            return "engine.packing is off"
        if why := layout.packed(model):
            return why
        found = layout.answers(model)
        if why := found["varlen"]:
            return why
        if self.kind == torch.float32:
            return "flash attention computes in bf16, and the run is in fp32"
        if "window_size" not in ARGUMENTS:
            return "this torch has no flash attention over packed rows; install torch 2.13 or newer"
        why = found["cached attention"]
        return f"flash attention does not read a cache here: {why}" if why else ""

    def read(self, model: Any, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """See Packed. Layers are compiled where the model trains."""
        compiled = model.training and torch.is_grad_enabled() and layout.answers(model).get("fused") == ""
        with fused.fused(model) if compiled and batch.lengths else nullcontext():
            return super().read(model, batch, keep)

    def segments(self, model: Any) -> Callable[[Sequence[int]], Segments]:
        """What keeps documents of given lengths apart in a row of `model`."""
        if layout.answers(model).get("varlen"):
            return super().segments(model)
        return partial(Varlen, device=self.where.device, kind=self.kind)

    def decoding_weights(self, model: Any) -> AbstractContextManager[Any]:
        """Inside, the weights are in the run's precision, and the rows that `decode` makes are kept."""
        return self.weights_for_rows(model) if self.packs(model) else super().decoding_weights(model)

    @contextmanager
    def weights_for_rows(self, model: Any) -> Iterator[None]:
        """See `decoding_weights`. A graph can't hold what autocast would remember of casts."""
        autocast = torch.autocast(
            self.where.device, dtype=torch.bfloat16, enabled=self.where.precision == "bf16", cache_enabled=False
        )
        adding = merged.merged(model) if layout.answers(model).get("merged") == "" else nullcontext()
        with adding, in_precision(model, self.where.precision), autocast:
            try:
                yield
            finally:
                vars(model).pop(ROWS, None)

    def decode(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, ends: Collection[int],
        barred: torch.Tensor | None,
    ) -> list[list[int]]:  # fmt: skip
        """New tokens of each prompt, where documents may stand in one row; `barred` are no tokens."""
        found = layout.answers(model)
        if found.get("varlen", "not asked"):
            return super().decode(model, prompts, limit, rows, ends, barred)
        key, capacity = (rows, () if barred is None else tuple(barred.tolist())), capacity_for(model, prompts, limit)
        held = vars(model).get(ROWS)
        if held is None or held[0] != key or held[1].cache.capacity < capacity:
            vars(model).pop(ROWS, None)  # before another is allocated
            held = vars(model)[ROWS] = key, self.rows(model, rows, capacity, barred)
        return write(held[1], prompts, limit, ends, self.kind, found.get("captured") == "")
