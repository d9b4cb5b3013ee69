"""Numbers and pictures in, tables and pages out, for files and for the terminal."""
