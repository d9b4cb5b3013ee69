"""What was found in, pictures out: the same bytes for the same numbers."""
