"""Intervals, contrasts and corrections over scores of the same documents: numbers in, numbers out."""
