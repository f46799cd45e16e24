"""Metrics beside ROUGE, computed from what finished runs wrote, and the interface for a metric of one's own"""
