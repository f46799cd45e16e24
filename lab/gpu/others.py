"""Libraries that a user may have beside Bakeoff: Unsloth, which trains, and vLLM, which writes.

Each patches or takes what it finds, so each computes in a process of its own:
`python -m lab.gpu.others unsloth 135M cuda` prints its figures as JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

if __name__ == "__main__" and "unsloth" in sys.argv:
    import unsloth as _patches  # noqa: F401  (it changes transformers and PEFT, and asks to be imported before them)

import torch

from bakeoff.config.schema import Computation
from bakeoff.shipped import ROOT
from lab.gpu import shapes
from lab.gpu.shapes import Shape

PATIENCE = 240
"""Seconds for a library's figures of one shape."""
SHAPES = {**shapes.SHAPES, **shapes.REHEARSAL}


def apart(library: str, shape: str, device: str) -> dict[str, Any]:
    """The figures of a library, from its own process. Raises RuntimeError with the last line of what it said."""
    command = [sys.executable, "-m", "lab.gpu.others", library, shape, device]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no figure within {PATIENCE} s") from None
    if found.returncode:
        raise RuntimeError((found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1])
    figures: dict[str, Any] = json.loads(found.stdout.strip().splitlines()[-1])
    return figures


def unsloth(shape: Shape, where: Computation) -> dict[str, Any]:
    """Tokens a second of Unsloth's LoRA under transformers' Trainer, which its own trainer is derived from."""
    from unsloth import FastLanguageModel

    from lab.gpu import speed

    with tempfile.TemporaryDirectory() as folder:
        save(shapes.base(shape, where), folder)
        dtype = torch.bfloat16 if where.precision == "bf16" else torch.float32
        model, _ = FastLanguageModel.from_pretrained(
            folder, max_seq_length=shape.tokens, dtype=dtype, load_in_4bit=False
        )
    method = shapes.LORA()
    model = FastLanguageModel.get_peft_model(
        model, r=method.rank, lora_alpha=method.alpha, lora_dropout=0.0, bias="none",
        target_modules=["q_proj", "v_proj"], use_gradient_checkpointing=False,
    )  # fmt: skip
    seconds, tokens, peak = speed.by_trainer(model, shape, where)
    return {"training": tokens / seconds, "training bytes": peak}


def vllm(shape: Shape, where: Computation) -> dict[str, Any]:
    """Tokens a second of vLLM with the LoRA merged."""
    from vllm import LLM, SamplingParams

    from lab.gpu import speed
    from lab.speed import opponents

    prompts = [{"prompt_token_ids": ids} for ids in speed.prompts_of(shape)]
    with tempfile.TemporaryDirectory() as folder:
        save(opponents.for_use(shapes.with_lora(shapes.base(shape, where))[0]), folder)
        model = LLM(model=folder, skip_tokenizer_init=True, max_model_len=shape.tokens + shape.labels, seed=0)
    # As many tokens as every other arm writes: no text ends before.
    asked = SamplingParams(temperature=0.0, max_tokens=shape.labels, ignore_eos=True, detokenize=False)
    model.generate(prompts[: shape.rows], asked, use_tqdm=False)
    start = time.perf_counter()
    texts = model.generate(prompts, asked, use_tqdm=False)
    seconds = time.perf_counter() - start
    # Its memory is what it was allowed to take, so it is no figure.
    return {"writing": sum(len(one.outputs[0].token_ids) for one in texts) / seconds}


def save(model: Any, folder: str) -> None:
    """A model with a tokenizer, as a user's folder holds them."""
    from bakeoff.models import loading

    model.save_pretrained(folder)
    loading.byte_tokenizer().save_pretrained(folder)
    del model
    shapes.free("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    from lab.gpu.measure import computation

    library, shape, device = sys.argv[1:]
    work = {"unsloth": unsloth, "vllm": vllm}[library]
    print(json.dumps(work(SHAPES[shape], computation(device, "bf16"))))
