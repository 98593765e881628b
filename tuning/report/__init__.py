"""The result of a search as text, as rows, and as a page."""
