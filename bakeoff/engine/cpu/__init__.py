"""The fast way on a processor: layers of Llama's kind by compiled kernels."""
