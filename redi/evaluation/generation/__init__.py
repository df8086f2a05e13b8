"""From benchmarks to sampled answers, in the order options, requests, back end, sample store."""
