"""What a fine-tuning method is: its contract, its counts, and how its file is found."""
