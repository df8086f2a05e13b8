"""From a checkpoint to generations, verdicts, and a table."""
