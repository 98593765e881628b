"""How the benchmarks measure, and how they show what they found."""
