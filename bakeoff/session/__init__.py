"""Many runs: planned and checked together, computed in processes of their own, here or elsewhere, kept in a store."""
