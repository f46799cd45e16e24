"""One run: attach a method, train it, generate summaries, score them, keep the evidence."""
