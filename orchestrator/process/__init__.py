"""This program's own process, the terminal it writes to, and the processes that it starts and waits for."""
