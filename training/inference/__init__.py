"""A checkpoint as a function, and how right that function is; nothing is trained."""
