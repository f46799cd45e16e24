"""Documents in, token ids out: sources, splits, prompts, chat templates."""
