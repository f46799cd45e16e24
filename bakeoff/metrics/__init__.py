"""How good a summary is: ROUGE, to the bit what rouge-score says."""
