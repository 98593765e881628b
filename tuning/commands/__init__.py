"""The commands `search` and `demo`."""
