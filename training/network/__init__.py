"""The plain definition of what is trained, and the file format of its weights."""
