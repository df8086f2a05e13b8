"""Token lengths of positives and pairs: counting, filtering, tables and plots."""
