"""What was asked for, and what it runs with; no torch, no Ray, and nothing is run."""
