"""Oracles: which candidate a search tries next. `table` knows them by name."""
