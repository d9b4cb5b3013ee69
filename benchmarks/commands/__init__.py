"""The body of each command: checks, calls, and what is said at its end."""
