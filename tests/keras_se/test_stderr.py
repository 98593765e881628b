"""What native code says is hidden, unless it fails."""

import os
import sys

import pytest

from keras_se.stderr import capture_stderr


def test_nothing_is_shown_and_standard_error_comes_back(capfd):
    os.write(2, b"before\n")
    with capture_stderr(), capture_stderr():
        os.write(2, b"from native code\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def fail(said):
    with capture_stderr():
        os.write(2, said)
        raise KeyError


def test_an_exception_carries_the_last_lines(capfd):
    with pytest.raises(KeyError) as caught:
        fail("\n".join(f"line {n}" for n in range(30)).encode() + b"\xff\n")
    (note,) = caught.value.__notes__
    assert note.splitlines()[:2] == ["On standard error:", "line 10"]
    assert note.splitlines()[-1] == "line 29\N{REPLACEMENT CHARACTER}"
    assert capfd.readouterr().err == ""
    with pytest.raises(KeyError) as caught:
        fail(b"")
    assert not hasattr(caught.value, "__notes__")


def test_without_a_console(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with capture_stderr():
        pass
    assert sys.stderr is None
