"""Faults on purpose: runs that are killed, starved, and resumed."""
