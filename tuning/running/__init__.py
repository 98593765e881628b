"""Many trials: which next, where they run, and what the search folder holds."""
