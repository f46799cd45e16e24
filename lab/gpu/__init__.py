"""One script for a machine with a GPU: is it right there, and how fast, against Trainer with PEFT and generate?"""
