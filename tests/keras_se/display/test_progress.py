"""What long calls show on standard error: of a terminal, of a file, and by whom."""

import os
import re
import sys
import threading
import time

import numpy as np
import pytest
from terminals import pipe, terminal

import keras_se
from keras_se.display import progress, screen
from keras_se.display.progress import counted, showing, step, with_progress
from keras_se.stderr import capture_stderr


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Shows what takes any time, and says it at once."""
    monkeypatch.setattr(progress, "_AFTER", 0.0)
    monkeypatch.setattr(screen, "_FIRST_LINE", 0.1)
    monkeypatch.setattr(screen, "_PER_SECOND", 50)


def slowly(count=3, seconds=0.1):
    for n in range(count):
        time.sleep(seconds)
        yield n


@with_progress
def outer(*, progress=True):
    """A public function."""
    with step("first"):
        for _ in counted(range(4), 4):
            time.sleep(0.1)
    return inner()


@with_progress
def inner(*, progress=True):
    """Another one, which may be called by the first."""
    for _ in counted(slowly(), 0, "second"):
        pass
    return 7


def test_a_terminal_shows_steps_and_how_far_they_are(monkeypatch):
    with terminal(monkeypatch) as shown:
        assert outer() == 7
    text = "\n".join(shown.lines)
    assert re.search(r"^outer: first [━╺╸]+ +25% time left 0:00$", text, re.MULTILINE)
    assert re.search(r"^outer: second ━+$", text, re.MULTILINE)
    assert "inner" not in text
    assert max(map(len, shown.lines)) <= 80


def test_a_bar_is_never_full(monkeypatch):
    """Also while something goes on after the last part that is counted."""
    with terminal(monkeypatch) as shown, showing("call"), step("part", 2) as advance:
        for _ in range(4):
            advance()
            time.sleep(0.1)
    assert any("50%" in line for line in shown.lines)
    assert not any("100%" in line for line in shown.lines)


def test_nothing_is_left_of_a_bar(monkeypatch):
    with terminal(monkeypatch) as shown:
        inner()
    assert shown.raw.endswith("\x1b[1A\x1b[2K")  # up, and the line is erased
    assert shown.raw.count("\x1b[?25l") == shown.raw.count("\x1b[?25h") == 1  # the cursor


def test_elsewhere_lines_have_the_time_and_what_is_left(monkeypatch):
    with pipe(monkeypatch) as stream, showing("call"):
        for _ in counted(slowly(4, 0.2), 4, "part"):
            pass
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d call: part, 0%", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d call: part, \d\d%, about 0:0\d left", lines[1])
    assert len(lines) < 5  # rarer and rarer


@pytest.mark.parametrize("kind", [terminal, pipe])
def test_short_calls_are_silent(monkeypatch, kind):
    monkeypatch.setattr(progress, "_AFTER", 60.0)
    monkeypatch.setattr(screen, "_FIRST_LINE", 60.0)
    with kind(monkeypatch) as shown:
        outer()
    assert (shown.raw if kind is terminal else shown.getvalue()) == ""


@pytest.mark.parametrize("kind", [terminal, pipe])
def test_progress_false_is_silent_inside_too(monkeypatch, kind):
    with kind(monkeypatch) as shown:
        outer(progress=False)
        with showing("call"):
            time.sleep(0.3)
            inner(progress=False)
    text = shown.raw if kind is terminal else shown.getvalue()
    assert "call" in text
    assert "second" not in text
    assert "outer" not in text


def test_native_code_that_is_kept_quiet_does_not_hide_it(monkeypatch, capfd):
    with os.fdopen(2, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with showing("call"), capture_stderr():
            os.write(2, b"from C++\n")
            time.sleep(0.4)
        monkeypatch.undo()
    assert re.match(r"\d\d:\d\d:\d\d call\n", err := capfd.readouterr().err)
    assert "C++" not in err


def test_what_shows_it_never_ends_the_work(monkeypatch):
    with pipe(monkeypatch) as stream, showing("call"):
        stream.close()
        time.sleep(0.3)
    monkeypatch.setattr(sys, "stderr", None)
    assert outer() == 7


def broken():
    with showing("call"), step("part"):
        time.sleep(0.1)
        raise KeyError("a fault")


def test_an_error_ends_it(monkeypatch):
    with terminal(monkeypatch) as shown, pytest.raises(KeyError, match="a fault"):
        broken()
    assert shown.raw.count("\x1b[?25h") == 1
    with pipe(monkeypatch) as stream, showing("next"):
        time.sleep(0.3)
    assert "part" not in stream.getvalue()


def test_of_calls_in_several_threads_one_is_drawn_at_a_time(monkeypatch):
    def call(title):
        with showing(title):
            time.sleep(0.2)

    with terminal(monkeypatch) as shown:
        threads = [threading.Thread(target=call, args=(f"call {n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown.raw.count("\x1b[?25l") == shown.raw.count("\x1b[?25h") >= 1
    # No cursor is hidden while another's bar is there.
    assert not re.search(r"\x1b\[\?25l(?:(?!\x1b\[\?25h).)*\x1b\[\?25l", shown.raw, re.DOTALL)


def test_gates_of_a_model_are_counted(monkeypatch, networks, images):
    with terminal(monkeypatch) as shown:
        keras_se.read_gates(networks["sigmoid"], np.concatenate([images] * 20), batch_size=4)
    assert any(re.match(r"read_gates: gates of the model [━╺╸]+ .*\d%", at) for at in shown.lines)


def test_conversion_and_verdict_name_their_steps(monkeypatch, networks, images):
    model = networks["sigmoid"]
    with terminal(monkeypatch) as shown:
        tflite = keras_se.to_tflite(model, "int8", images[:150], check_range=False)
        keras_se.verify(model, tflite, images[150:])
    text = "\n".join(shown.lines)
    # A drawing may miss a step of milliseconds.
    for what in ("to_tflite: conversion to int8", "verify: gates of the reference"):
        assert what in text
    with terminal(monkeypatch) as shown:
        keras_se.verify(model, tflite, images[150:], progress=False)
        keras_se.to_tflite(model, "float32", progress=False)
        keras_se.read_gates(model, images, progress=False)
    assert shown.raw == ""


def test_a_verdict_inside_a_report_is_a_part_of_it(monkeypatch, networks, images):
    model = networks["sigmoid"]
    with terminal(monkeypatch) as shown:
        report = keras_se.compression_report(model, model, images[:64])
    assert report.gates is not None
    text = "\n".join(shown.lines)
    assert "compression_report: conversion to float32" in text
    assert "verify" not in text
    assert "to_tflite" not in text
