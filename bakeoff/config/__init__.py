"""Settings, presets and `--set`, and what depends on the machine: device, precision, threads."""
