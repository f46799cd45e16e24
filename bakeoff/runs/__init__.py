"""One run: attach a method, train, write summaries, score them, keep the evidence."""
