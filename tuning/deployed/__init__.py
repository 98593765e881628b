"""The files of candidates: converted, run and judged, and the choice that they lead to."""
