"""One candidate, one seed: what a trial needs, does and leaves."""
