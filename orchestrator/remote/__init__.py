"""A run, a grid or a sweep in a bucket: who may write it, what it holds, and its copy on this machine."""
