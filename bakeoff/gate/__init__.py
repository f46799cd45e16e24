"""Whether a method writes worse summaries than what was accepted, and how sure that is."""
