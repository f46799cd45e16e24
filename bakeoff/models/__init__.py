"""A base model from anywhere: known names, folders, GGUF files, a hub, or random weights."""
