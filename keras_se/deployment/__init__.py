"""The file to ship: what is tried, in which order, and how it is chosen."""
