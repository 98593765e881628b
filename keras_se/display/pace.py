"""How long work still takes, at the pace so far."""

import time


class Pace:
    """Tells the time that is left whenever it is asked, from when it was made."""

    def __init__(self) -> None:
        self._began = self._counted = time.monotonic()
        self._done = 0.0

    def seconds_left(self, done: float, total: float) -> float | None:
        """Returns the seconds left; `None` before anything is done."""
        now = time.monotonic()
        if done != self._done:
            self._done, self._counted = done, now
        if done <= 0:
            return None
        # Between two counts the time left goes down, and the pace stays.
        left = (self._counted - self._began) * (total - done) / done
        return max(0.0, left - (now - self._counted))


def clock(seconds: float) -> str:
    """Returns a time as minutes and seconds, or with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
