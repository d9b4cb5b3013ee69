"""One file for each method, whose head is its equation; knows no Ray, no rank and no file."""
