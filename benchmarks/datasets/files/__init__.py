"""Which files there are and what their pixels are: the only code that opens an image that nobody has checked."""
