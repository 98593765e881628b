"""Whether the gates of a file survived."""
