"""Trials of a tuning: their record, their table, and what it advises."""
