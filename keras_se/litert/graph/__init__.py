"""A TFLite file as a graph, and the SE found in it, whichever converter made it."""
