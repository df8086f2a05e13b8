"""Reads corpora and datasets: parquet, JSON, CSV or the Hub, in batches of bounded size."""
