"""What we run, what we feed it, and what we show."""
