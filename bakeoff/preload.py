"""Imported once by the forkserver, so that the process of each run starts with torch and its friends in memory."""

import atexit
import os

import peft  # noqa: F401
import rouge_score.rouge_scorer  # noqa: F401
import torch._dynamo  # noqa: F401  (torch.optim imports it at its first use, 100 MB that are not the run's)
import transformers.generation
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import bakeoff.run  # noqa: F401

# The server has nothing to put away, and taking torch down takes seconds in which its parent's output stays open.
atexit.register(os._exit, 0)
