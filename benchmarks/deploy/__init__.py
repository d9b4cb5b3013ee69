"""A finished model on images that nobody has labelled, or as a file for other programs."""
