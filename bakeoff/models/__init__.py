"""Base models from a known name, a folder, a GGUF file, a hub, or random weights."""
