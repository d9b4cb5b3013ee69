"""A run folder for nodes that do not see it: the driver's node serves it, and such a node mirrors what it needs."""
