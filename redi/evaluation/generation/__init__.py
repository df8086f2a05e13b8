"""From benchmarks to sampled answers, in the order options, model, prompts and requests, back end, sample store."""
