"""Oracle that stops the worst candidates early."""

import itertools
import math
from typing import Any

from tuning.choice.scores import as_loss
from tuning.oracles.stateless import StatelessOracle, plain

EPOCHS = "tuner/epochs"  # keras-tuner's own name of the epochs of a trial


class HyperbandOracle(StatelessOracle):
    """Hyperband: trains many candidates briefly, and the best third of them three times as long.

    A bracket begins with random candidates, and each of its rounds takes the best of the round
    before. Brackets differ in how briefly they begin; the last trains all for `epochs`. It differs
    from `keras_tuner.oracles.HyperbandOracle`, which ends after the first round where a bracket is
    larger than the space, or where trials fail: here a round takes a third of what completed.

    Source: Li et al., "Hyperband", JMLR 18 (2018), algorithm 1.
    """

    def __init__(self, objective: Any, hyperparameters: Any, epochs: int, factor: int = 3) -> None:
        super().__init__(objective, hyperparameters)
        self.epochs, self.factor = epochs, factor
        # Not `math.log`, whose quotient may lie just below a whole number.
        self.brackets = 1
        while factor**self.brackets <= epochs:
            self.brackets += 1

    def size(self, bracket: int) -> int:
        """Number of candidates that a bracket begins with; the last bracket is 0."""
        return math.ceil(self.brackets / (bracket + 1) * self.factor**bracket)

    def expected(self) -> tuple[int, int]:
        """Returns how many trials there will be, and how many with all epochs."""
        sizes = [self.size(bracket) for bracket in reversed(range(self.brackets))]
        left, trials, compared = self.space_size(sum(sizes)), 0, 0
        for rounds, size in zip(range(self.brackets, 0, -1), sizes, strict=True):
            number = min(size, left)
            left -= number
            for _ in range(rounds):
                trials, last = trials + number, number
                number = math.ceil(number / self.factor)
            compared += last
        most = self.max_trials or trials
        return min(trials, most), min(compared, most)

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the next trial of the first bracket that has one."""
        for bracket in reversed(range(self.brackets)):
            if (values := self._next_of(bracket, tried)) is not None:
                return values
        return None

    def _next_of(self, bracket: int, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        rounds = [self._trials(bracket, number) for number in range(bracket + 1)]
        if len(rounds[0]) < self.size(bracket) and (values := self.untried(tried)) is not None:
            return self._noted(values, bracket, 0)
        for number, (before, here) in enumerate(itertools.pairwise(rounds), 1):
            if any(trial.status == "RUNNING" for trial in before):
                return None
            known = {plain(trial.hyperparameters.values) for trial in here}
            for values in self._best(before):
                if plain(values) not in known:
                    return self._noted(values, bracket, number)
        return None

    def _trials(self, bracket: int, number: int) -> list[Any]:
        wanted = {"tuner/bracket": bracket, "tuner/round": number}
        return [
            t for t in self.trials.values() if wanted.items() <= t.hyperparameters.values.items()
        ]

    def _best(self, trials: list[Any]) -> list[dict[str, Any]]:
        completed = [trial for trial in trials if trial.status == "COMPLETED"]
        completed.sort(key=self._rank)
        kept = completed[: math.ceil(len(completed) / self.factor)]
        return [trial.hyperparameters.values for trial in kept]

    def _rank(self, trial: Any) -> tuple[float, str]:
        # Ties by values: the order of trials depends on which ends first, and on the file system.
        loss = as_loss(float(trial.score), self.objective.direction)
        return loss, str(plain(trial.hyperparameters.values))

    def _noted(self, values: dict[str, Any], bracket: int, number: int) -> dict[str, Any]:
        epochs = math.ceil(self.epochs / self.factor ** (bracket - number))
        return {**values, EPOCHS: epochs, "tuner/bracket": bracket, "tuner/round": number}
