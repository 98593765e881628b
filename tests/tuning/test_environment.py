import os
import sys

import pytest

from tuning.environment import native_stderr_to_file


def test_native_text_goes_to_the_file_and_python_text_to_the_terminal(capfd):
    with native_stderr_to_file() as path:
        os.write(2, b"from C++\n")
        sys.stderr.write("from Python\n")
        assert path.read_text() == "from C++\n"
    assert not path.exists()
    assert capfd.readouterr().err == "from Python\n"


def test_everything_is_as_before_after_an_error(capfd):
    stderr = sys.stderr
    with pytest.raises(KeyError), native_stderr_to_file() as path:
        raise KeyError
    os.write(2, b"from C++ again\n")
    assert sys.stderr is stderr
    assert not path.exists()
    assert capfd.readouterr().err == "from C++ again\n"
