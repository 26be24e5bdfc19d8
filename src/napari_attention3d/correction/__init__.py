"""Painted corrections: encode them, learn from them in seconds, keep and undo rounds."""
