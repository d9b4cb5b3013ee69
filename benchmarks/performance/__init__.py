"""Throughput and memory as ratios, measured side by side (`make bench`)."""
