"""Comparing an answer with its reference answers."""
