"""Progress of a search: a live table on a terminal, plain lines elsewhere."""

import math
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tuning.choice.scores import as_loss
from tuning.running.budget import Budget
from tuning.trials.records import TrialRecord


class SearchProgress:
    """Shows the trials of a search as they end."""

    def __init__(self, console: Console, metric: str, direction: str) -> None:
        self._console, self._metric, self._direction = console, metric, direction
        self._scores: dict[str, list[float]] = {}
        self._failures: dict[str, str] = {}
        self._done, self._total = 0, 0
        self._budget, self._paced = Budget(None, None), False
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=None)
        self._live = Live(console=console, get_renderable=self._shown, refresh_per_second=4)

    def start(self, budget: Budget) -> None:
        """Prints the budget of the search and shows the trials that are on record."""
        self._budget, self._done = budget, len(budget.records)
        self._console.print(str(budget), soft_wrap=True)
        self._paced = budget.seconds is not None
        for record in budget.records:
            self._note(record)
        self._total = 0 if budget.planned is None else budget.planned + self._done
        # `update` would take those on record for ones that were just done, and the pace from them.
        self._bar.reset(self._task, total=self._total or None, completed=self._done)

    def add(self, record: TrialRecord) -> None:
        """Shows a trial that has ended."""
        self._done += 1
        # The rule may ask for further seeds, which the plan does not count.
        self._total = self._total and max(self._total, self._done)
        self._bar.update(self._task, completed=self._done, total=self._total or None)
        self._note(record)
        outcome = f"failed: {record.cause}"
        if record.score is not None:
            outcome = f"{self._metric} {record.score:.4g} ({record.seconds:.1f} s)"
        if not self._console.is_terminal:
            number = f"[{self._done}/{self._total}]" if self._total else f"[{self._done}]"
            line = f"{number} {record.label}, seed {record.seed}: {outcome}"
            # A cause may hold brackets, which rich would read as markup.
            self._console.print(line, soft_wrap=True, markup=False)
        if not self._paced and record.completed:
            self._paced, done = True, self._done - len(self._budget.records)
            self._console.print(self._budget.pace(record.seconds, done), soft_wrap=True)

    def _note(self, record: TrialRecord) -> None:
        if record.score is None:
            self._failures[record.label] = record.cause
        elif not record.is_fresh:  # fresh seeds confirm the winner and are not compared
            self._scores.setdefault(record.label, []).append(record.score)

    def _shown(self) -> Group:
        table = Table("candidate", "seeds", self._metric, title_justify="left", box=box.SIMPLE_HEAD)
        table.title = f"best so far, of {len(self._scores)} candidates"
        means = {label: math.fsum(s) / len(s) for label, s in self._scores.items()}
        for label in sorted(means, key=lambda name: as_loss(means[name], self._direction))[:8]:
            table.add_row(Text(label), str(len(self._scores[label])), f"{means[label]:.4g}")
        for label, cause in list(self._failures.items())[-2:]:
            table.add_row(Text(label), "-", Text(f"failed: {cause[:60]}"))
        return Group(table, self._bar)

    def __enter__(self) -> Self:
        # Elsewhere `add` prints lines.
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
