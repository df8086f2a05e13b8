"""Turns a raw corpus of graded generations into positives and pairs, and studies them."""
