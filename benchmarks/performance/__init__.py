"""Throughput and memory as ratios, measured side by side (`make bench`), and a lent GPU's minutes (`make gpu`)."""
