"""Progress of a search: a live table on a terminal or in a notebook, plain lines elsewhere."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from keras_se.display.pace import Pace, clock
from keras_se.display.progress import showing
from keras_se.display.screen import Screen, bar
from keras_se.errors import InputError
from tuning.choice.scores import as_loss
from tuning.oracles.hyperband import EPOCHS
from tuning.running.budget import Budget
from tuning.trials.perform import Epochs, Run
from tuning.trials.records import TrialRecord

_SHOWN = 8  # candidates, and running trials


class SearchProgress:
    """Shows the trials of a search while they run and as they end.

    `to`: a console; `True`: standard error; `False`: nothing is shown.
    """

    def __init__(
        self, metric: str, direction: str, epochs: int = 1, to: Console | bool = True
    ) -> None:
        if not isinstance(to, bool | Console):
            raise InputError(
                f"progress must be True, False or a rich.console.Console. Received: progress={to!r}"
            )
        self._metric, self._direction, self._epochs = metric, direction, epochs
        self._scores: dict[str, list[float]] = {}
        self._failures: dict[str, str] = {}
        self._budget, self._paced = Budget(None, None), False
        self._done, self._planned, self._pace = 0, 0, Pace()
        self._running: Callable[[], Sequence[tuple[Run, Epochs]]] = list
        self.doing, self._is_over = "", False
        if to is True:
            # No markup: names of candidates may contain brackets.
            to = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._screen = Screen(self._drawn, self._said, None, to) if to else None
        self._stack = ExitStack()

    def start(
        self,
        budget: Budget,
        running: Callable[[], Sequence[tuple[Run, Epochs]]] = list,
    ) -> None:
        """Prints the budget of the search and shows the trials that are on record."""
        self._budget, self._done, self._running = budget, len(budget.records), running
        self._pace, self.doing = Pace(), ""
        self._print(str(budget))
        self._paced = budget.seconds is not None
        for record in budget.records:
            self._note(record)
        self._planned = 0 if budget.planned is None else budget.planned + self._done

    def do(self, what: str) -> None:
        """Names what a search does that is no trial; empty while trials run."""
        self.doing = what

    def add(self, record: TrialRecord) -> None:
        """Shows a trial that has ended."""
        self._done += 1
        # The rule may ask for further seeds, which the plan does not count.
        self._planned = self._planned and max(self._planned, self._done)
        self._note(record)
        outcome = f"failed: {record.cause}"
        if record.score is not None:
            outcome = f"{self._metric} {record.score:.4g} ({record.seconds:.1f} s)"
        if self._screen is not None and not self._screen.is_drawing:
            number = f"[{self._done}/{self._planned}]" if self._planned else f"[{self._done}]"
            self._print(f"{number} {record.label}, seed {record.seed}: {outcome}")
        if not self._paced and record.completed:
            self._paced, done = True, self._done - len(self._budget.records)
            self._print(self._budget.pace(record.seconds, done))

    def _print(self, line: str) -> None:
        if self._screen is not None:
            # A label or a cause may hold brackets, which rich would read as markup.
            self._screen.console.print(line, soft_wrap=True, markup=False)

    def _note(self, record: TrialRecord) -> None:
        if record.score is None:
            self._failures[record.label] = record.cause
        elif not record.is_fresh:  # fresh seeds confirm the winner and are not compared
            self._scores.setdefault(record.label, []).append(record.score)

    def _drawn(self) -> Group:
        # Copies: the search goes on meanwhile.
        scores, failures = dict(self._scores), list(self._failures.items())
        table = Table("candidate", "seeds", self._metric, title_justify="left", box=box.SIMPLE_HEAD)
        table.title = f"best so far, of {len(scores)} candidates"
        means = {label: math.fsum(s) / len(s) for label, s in scores.items()}
        for label in sorted(means, key=lambda name: as_loss(means[name], self._direction))[:_SHOWN]:
            table.add_row(Text(label), str(len(scores[label])), f"{means[label]:.4g}")
        for label, cause in failures[-2:]:
            table.add_row(Text(label), "-", Text(f"failed: {cause[:60]}"))
        running = list(self._running())
        lines = [Text(self._epoch_of(*trial), overflow="fold") for trial in running[:_SHOWN]]
        total = self._total(len(running))
        share = self._done / total if total and (self._done < total or self._is_over) else None
        counted = f"{self._done}/{total or '?'}"
        return Group(
            table, *lines, bar(self.doing or "trials", share, counted, self._seconds(running))
        )

    def _said(self) -> str:
        running = list(self._running())
        total, seconds = self._total(len(running)), self._seconds(running)
        counted = f"{self._done} of {total} trials" if total else f"{self._done} trials"
        left = "" if seconds is None else f", about {clock(seconds)} left"
        now = [self.doing] if self.doing else [self._epoch_of(*trial) for trial in running[:_SHOWN]]
        return f"search: {'; '.join([counted + left, *now])}"

    def _total(self, running: int) -> int:
        # The rule may ask for more than was planned: then a full bar would be wrong.
        return self._planned and max(self._planned, self._done + running)

    def _epoch_of(self, run: Run, epochs: Epochs) -> str:
        named = f"{run.candidate.label}, seed {run.seed}"
        if epochs.done is None:  # on another machine
            return f"{named}: running"
        # The user's own `fit` may train longer.
        epoch = max(epochs.done, min(epochs.done + 1, self._of(run)))
        score = "" if epochs.score is None else f", {self._metric} {epochs.score:.4g}"
        return f"{named}: epoch {epoch} of {self._of(run)}{score}"

    def _of(self, run: Run) -> int:
        return int(run.candidate.values.get(EPOCHS, self._epochs))

    def _seconds(self, running: Sequence[tuple[Run, Epochs]]) -> float | None:
        """Seconds left at the pace of what was trained, epochs of running trials included."""
        parts = sum(min(1.0, (epochs.done or 0) / self._of(run)) for run, epochs in running)
        trained = self._done - len(self._budget.records) + parts
        left = self._total(len(running)) - self._done - parts
        if not self._planned or left < 0 or self.doing:
            return None
        seconds, known = self._pace.seconds_left(trained, trained + left), self._budget.seconds
        if seconds is None and known is not None:  # by the records
            return known * left / self._budget.workers
        return seconds

    def __enter__(self) -> Self:
        # What a trial calls here, such as `read_gates`, must not draw into the table.
        self._stack.enter_context(showing("search", progress=False))
        if self._screen is not None:
            self._stack.enter_context(self._screen)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._is_over, self.doing = exception[0] is None, ""
        self._stack.close()
