"""The same function and gradient as a plain form that each file names, only faster or right; knows no network."""
