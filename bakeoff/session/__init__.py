"""Many runs: planned and checked at once, made one by one in processes of their own, kept in a store."""
