"""Oracles of keras-tuner driven by hand."""

import random


def proposals(oracle, tuners, end):
    """Values in the order in which they are proposed, several trials at a time.

    `end(trial, number, rng)` ends a trial; `number` counts the proposals so far.
    """
    rng, open_trials, proposed, stopped = random.Random(0), {}, [], set()
    while len(stopped) < len(tuners):
        name = rng.choice([t for t in tuners if t not in stopped])
        if name in open_trials:
            end(open_trials.pop(name), len(proposed), rng)
            continue
        trial = oracle.create_trial(name)
        if trial.status == "RUNNING":
            open_trials[name] = trial
            proposed.append(trial.hyperparameters.values)
        elif trial.status == "STOPPED":
            stopped.add(name)
        else:
            assert (trial.status, bool(open_trials)) == ("IDLE", True)
    return proposed
