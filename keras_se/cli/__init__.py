"""The commands of `keras-se`: each a thin wrapper of the function of that name."""
