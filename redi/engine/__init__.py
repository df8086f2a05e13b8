"""Traces -> balanced, packed micro-batches -> signed sums of log-probabilities. Independent of TRL's trainers."""
