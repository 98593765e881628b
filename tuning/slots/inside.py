"""What runs in the process of a slot."""

import faulthandler
import os
import pickle
import signal
import sys
from os import _exit as exit_at_once  # public: its name is from C
from pathlib import Path

from tuning.slots.parcel import opened
from tuning.slots.watchdog import hold_group


def begin(parent: int, log: str, group: str) -> None:
    """Prepares the process: it heeds no Ctrl-C, ends with its parent and prints to a log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hold_group(Path(group))
    if os.getppid() != parent:  # it died before the watchdog could see this process
        exit_at_once(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()


def load(place: str) -> None:
    """Loads Keras and the job, which is not the trial's time."""
    import tuning.trials.perform  # noqa: F401

    opened(place)


def work(place: str, run: bytes) -> bytes:
    """Performs a run of the job; both ends of the way see bytes alone and need no Keras."""
    call = pickle.loads(run)  # noqa: S301 (from our parent)
    return pickle.dumps(call.perform(opened(place)))
