"""Baselines, and verdicts on whether a method writes worse summaries than its baseline."""
