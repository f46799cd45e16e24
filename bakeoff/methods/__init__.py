"""The contract of a fine-tuning method, its parameter counts, and the registry that finds its file."""
