"""The reports of a verdict and of compression, as data, text and page."""
