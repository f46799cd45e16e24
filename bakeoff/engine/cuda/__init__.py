"""The fast way on a GPU: flash attention over packed rows, and writing by a captured graph."""
