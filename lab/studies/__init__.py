"""Experiments with Bakeoff on questions of fine-tuning's theory: each a preset NAME.toml and a module NAME.py."""
