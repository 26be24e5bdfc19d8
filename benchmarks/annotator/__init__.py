"""A simulated person who corrects a mask with short strokes."""
