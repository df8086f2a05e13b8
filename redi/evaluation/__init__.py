"""From a model to sampled answers, verdicts and a table: generation, grading, reporting; `run` does all three."""
