"""Every method on tiny models of every architecture."""
