"""Draws street scenes with exact labels; reads no file."""
