"""Scores, areas and a budget in, a query out; sees no tensor and no image."""
