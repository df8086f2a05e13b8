"""From a raw corpus of graded generations to positives and pairs."""
