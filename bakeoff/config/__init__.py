"""Settings: what there is to set, presets and `--set`, and what the machine decides."""
