"""What `evaluate` is made of: asking, scoring, baselines, benchmarks, and the report."""
