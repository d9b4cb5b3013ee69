"""What is known of which pixel, and what to ask next."""
