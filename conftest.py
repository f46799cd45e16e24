"""Loads the plugin, nothing else."""

pytest_plugins = ["bakeoff.plugin"]
