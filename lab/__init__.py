"""Experiments on the harness itself."""
