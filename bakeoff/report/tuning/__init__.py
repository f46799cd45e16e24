"""Trials of a tuning: their record beside the preset, their table and what it advises, and their plot."""
