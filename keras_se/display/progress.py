"""The steps of a call that may take long, shown on standard error unless `progress=False`.

A public function is marked `@with_progress`. What it calls names its steps by `step`, and counts
through `counted`; both do nothing where nobody asked. A call inside of another joins its progress.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from keras_se.display.pace import Pace, clock

_AFTER = 2.0  # seconds of work that nothing is shown of
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(eq=False)  # each is another step, whatever it says
class _Step:
    what: str
    total: int | None = None
    done: int = 0
    pace: Pace = field(default_factory=Pace)

    @property
    def share(self) -> float | None:
        # What is counted may be done before the step is: its bar is not full then.
        return self.done / self.total if self.total and self.done < self.total else None

    @property
    def seconds(self) -> float | None:
        """Seconds left at the pace so far; `None` before the first count."""
        share = self.share
        return None if share is None else self.pace.seconds_left(share, 1.0)


class _Progress:
    """The steps that a call is in, the innermost last."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.steps = [_Step("")]

    def _now(self) -> tuple[str, _Step]:
        """Returns what the call is doing, and the step that tells how far it is."""
        steps = list(self.steps)  # the call goes on meanwhile
        named = [step.what for step in steps if step.what]
        what = f"{self._title}: {named[-1]}" if named else self._title
        return what, steps[-1]

    def drawn(self) -> Any:
        """Returns the bar."""
        from keras_se.display.screen import bar

        what, step = self._now()
        counted = "" if step.share is None else f"{step.share:4.0%}"
        return bar(what, step.share, counted, step.seconds)

    def said(self) -> str:
        """Returns the same in a sentence."""
        what, step = self._now()
        counted = "" if step.share is None else f", {step.share:.0%}"
        left = "" if step.seconds is None else f", about {clock(step.seconds)} left"
        return f"{what}{counted}{left}"


_inside: ContextVar[_Progress | None] = ContextVar("inside", default=None)


@contextmanager
def showing(title: str, progress: bool = True) -> Iterator[None]:
    """Shows the steps inside once they take more than two seconds; a call inside joins."""
    outer = _inside.get()
    if outer is not None and progress:
        yield
        return
    shown = _Progress(title)
    token = _inside.set(shown)
    try:
        if not progress or outer is not None:
            yield
            return
        from keras_se.display.screen import Screen  # rich is not loaded with the package

        with Screen(shown.drawn, shown.said, _AFTER):
            yield
    finally:
        _inside.reset(token)


def with_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Shows the steps of a function, unless its argument `progress` says not to."""

    @functools.wraps(function)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        with showing(function.__name__, bool(kwargs.get("progress", True))):
            return function(*args, **kwargs)

    return shown


@contextmanager
def step(what: str = "", total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows what is done inside; call what it yields after each of `total` parts."""
    progress, now = _inside.get(), _Step(what, total)

    def advance() -> None:
        now.done += 1

    if progress is None:
        yield advance
        return
    progress.steps.append(now)
    try:
        yield advance
    finally:
        progress.steps.remove(now)


def counted(items: Iterable[T], total: int, what: str = "") -> Iterator[T]:
    """Yields items, and counts those that are done; without a name for the step around."""
    with step(what, total) as advance:
        for item in items:
            yield item
            advance()
