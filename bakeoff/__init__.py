"""Bakeoff: which fine-tuning method writes the better summaries, what it costs, and whether the difference is real.

What a method file, a test in `bench/` and a notebook may import stands here; everything else may move.
"""

from bakeoff.core.writing import join_sentences
from bakeoff.methods.adapter import Adapter
from bakeoff.methods.api import Control, Example, Examples, Method, ParameterGroup
from bakeoff.methods.parameters import ParameterCounts, Shapes, shapes_of
from bakeoff.methods.targets import target_layers, target_names
from bakeoff.metrics.rouge import rouge
from bakeoff.scoring.api import Metric

__all__ = [
    "Adapter",
    "Control",
    "Example",
    "Examples",
    "Method",
    "Metric",
    "ParameterCounts",
    "ParameterGroup",
    "Shapes",
    "__version__",
    "join_sentences",
    "rouge",
    "shapes_of",
    "target_layers",
    "target_names",
]
__version__ = "0.1.0"
