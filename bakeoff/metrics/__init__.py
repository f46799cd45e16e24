"""ROUGE of a summary, equal to the bit to rouge-score's."""
