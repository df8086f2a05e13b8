"""Reads corpora and datasets: parquet, JSON lines or the Hub, in batches of bounded size."""
