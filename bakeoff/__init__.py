"""Bakeoff: which fine-tuning method writes the better summaries, what it costs, and whether the difference is real."""

__version__ = "0.1.0"
