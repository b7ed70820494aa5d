"""Benchmarks: a peer is measured in the same run, taking turns, and what is printed are ratios."""
