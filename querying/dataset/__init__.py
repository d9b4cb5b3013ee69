"""Reads and writes what was ingested; decides nothing."""
