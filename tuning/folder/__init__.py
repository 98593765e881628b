"""The folder of a search: what lies in it, and what stays there."""
