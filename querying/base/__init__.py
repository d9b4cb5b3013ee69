"""What everything may import: it knows no image, no label and no network, and imports nothing else of ours."""
