"""From benchmarks to sampled answers: requests, back ends and the sample store."""
