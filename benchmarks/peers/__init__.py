"""SE as others write it: layers, and networks of other packages."""
