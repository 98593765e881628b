"""Which candidate, and with what certainty. NumPy and SciPy only."""
