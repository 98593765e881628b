"""Files that run in a process of their own, or are refused."""

import pytest

from keras_se import to_tflite
from keras_se.errors import InputError
from keras_se.isolation import check_runs


@pytest.fixture(scope="module")
def tflite(networks):
    return to_tflite(networks["sigmoid"], "float32")


def test_files_that_run(tflite):
    check_runs([tflite, tflite])


def test_files_that_do_not_load(tflite):
    with pytest.raises(InputError, match=r"load in the LiteRT runtime and run once\. Received: "):
        check_runs([tflite, tflite[:2000]])


def test_a_file_has_limited_time(tflite):
    with pytest.raises(InputError, match=r"of its own it took more than 0\.01 seconds"):
        check_runs([tflite], seconds=0.01)


def test_a_crash_is_a_sentence(tflite, monkeypatch):
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr("keras_se.isolation._SCRIPT", crash)
    with pytest.raises(InputError, match="in a process of its own it ended with signal 11"):
        check_runs([tflite])


def test_nothing_in_the_working_directory_is_imported(tflite, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    check_runs([tflite])
