"""How a model computes: forward, loss and decoding, in the fastest way that changes nothing."""
