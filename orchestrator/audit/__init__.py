"""Is a run what was written, and do its numbers add up?  Reads everything, writes nothing."""
