"""What a person or a network has said of which pixel; the oracle alone opens the pool's truth."""
