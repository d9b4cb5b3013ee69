"""Folders of runs in, numbers out; no matplotlib, no rich and no typer."""
