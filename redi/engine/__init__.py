"""Traces to balanced, packed micro-batches to signed sums of log-probabilities. Knows nothing of TRL's trainers."""
