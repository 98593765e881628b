"""Layers that compute as an int8 file does, with gradients."""
