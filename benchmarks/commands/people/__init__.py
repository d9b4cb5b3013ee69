"""Commands of a project that people answer: how it begins, what goes out to them and comes back."""
