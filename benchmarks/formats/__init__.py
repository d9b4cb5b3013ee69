"""Files that annotation tools read and write: a package on its way to people, and their answers on the way back."""
