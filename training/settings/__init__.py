"""What a recipe may say of a training, validated; imports nothing heavy."""
