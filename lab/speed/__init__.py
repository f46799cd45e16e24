"""The measurements against transformers' Trainer with PEFT and `generate`."""
