"""Many runs: planned and checked together, computed one by one in processes of their own, kept in a store."""
