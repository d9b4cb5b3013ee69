"""What methods are made of: their interface, pieces of a loss, mixing, the mean teacher."""
