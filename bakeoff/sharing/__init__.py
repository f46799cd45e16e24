"""A finished run for others: merged into a model's folder, or described by a model card"""
