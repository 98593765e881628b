"""How a search runs: its seeds and its processes. What it trains is the `Job`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_se.errors import InputError
from keras_se.litert.formats import FORMATS, FormatName
from tuning.trials.records import FINAL


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search that may change when it resumes, as `search` takes them.

    Attributes:
        seeds: First seeds, which every candidate is trained from.
        fresh_seeds: Number of seeds to confirm the winner on.
        workers: Number of processes; 1 means this process, `None` those of an executor.
        threads: Threads per process; `None` means that the search decides.
        timeout: Seconds after which a trial fails.
        max_seeds: Largest number of seeds per candidate that the rule may ask for.
        max_trials: Largest number of trials that the oracle may propose.
        keep_weights: Number of trials whose weights are kept.
        modules: Modules that each process imports first.
        deployed: Format of the files that the choice depends on; `None` for none.
    """

    seeds: tuple[int, ...]
    fresh_seeds: int
    workers: int | None
    threads: int | None
    timeout: float | None
    keep_weights: int
    modules: Sequence[str] = ()
    max_seeds: int | None = None
    max_trials: int | None = None
    deployed: FormatName | None = None

    def __post_init__(self) -> None:
        for name, number, least in (
            ("workers", 1 if self.workers is None else self.workers, 1),
            ("fresh_seeds", self.fresh_seeds, 0),
            ("keep_weights", self.keep_weights, 0),
            ("max_trials", 1 if self.max_trials is None else self.max_trials, 1),
            ("timeout", 1 if self.timeout is None else self.timeout, 0),
        ):
            if not number >= least:  # also for NaN
                raise InputError(f"{name} must be at least {least}. Received: {name}={number!r}")
        if self.deployed is not None and self.deployed not in FORMATS:
            raise InputError(
                f"deployed must be one of {list(FORMATS)}, or None. "
                f"Received: deployed={self.deployed!r}"
            )

    def description(self) -> dict[str, Any]:
        """Returns the content of `job.toml`."""
        content = dataclasses.asdict(self)
        return {**content, "seeds": list(self.seeds), "modules": list(self.modules) or None}


def list_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the seeds, given as their number or one by one."""
    given = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    valid = all(isinstance(seed, int) and 0 <= seed < FINAL for seed in given)
    if not given or not valid or len(set(given)) < len(given):
        raise InputError(
            "seeds must be a number of at least 1, or different integers from 0 to "
            f"{FINAL - 1:,}. Received: seeds={seeds!r}"
        )
    return given
