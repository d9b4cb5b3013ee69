"""Which classes there are, and which class a value or a colour of a mask is."""
