"""Imported once by the forkserver, so that the process of each run starts with torch and its friends in memory."""

import atexit
import gc
import importlib
import os
import threading

from bakeoff.models import quantise

LOOKS_EVERY = 0.05
"""Seconds after which it is seen that the command has ended."""
parent = int(os.environ.pop("BAKEOFF_COMMAND", os.getppid()))
"""The process of the command."""
imported = threading.Event()


def watch() -> None:
    """Ends this process with the command that began it: its output stays open until then, so that who reads it waits
    for imports that nobody needs any more."""
    while not imported.wait(LOOKS_EVERY):
        if os.getppid() != parent:
            os._exit(0)


watching = threading.Thread(target=watch, daemon=True)
watching.start()
quantise.leave_out()
gc.disable()  # what is imported stays: looking for garbage in it takes a fifth of the time
for module in (
    "peft",
    "rouge_score.rouge_scorer",
    "torch._dynamo",  # torch.optim imports it at its first use, 100 MB that are not the run's
    "transformers.generation",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "bakeoff.runs.pipeline",
):
    importlib.import_module(module)
# A table that transformers makes for the first model that it loads.
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
imported.set()
watching.join()  # a process with threads is not to be forked
gc.enable()
gc.freeze()  # a process of a run looks for garbage among its own objects alone

# The server has nothing to put away, and taking torch down takes seconds in which its parent's output stays open.
atexit.register(os._exit, 0)
