"""The data of a search: its parts, their splits, batches and hashes."""
