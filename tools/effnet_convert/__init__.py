"""Turns trained PyTorch parameters into effnet's weights file (docs/weights-format.md)."""
