"""Parts of benchmarks/networks.py: data, networks, training, scores, tables."""
