import os

import pytest

from keras_se.errors import InputError
from tuning import SearchWarning
from tuning.folder.begun import MANY, Begun


@pytest.fixture
def path(tmp_path):
    return tmp_path / "begun.log"


def test_a_trial_that_met_many_endings_is_late(path):
    for number in range(MANY):
        begun = Begun(path, ())
        assert not begun.is_late("a-s1", "a"), number
        begun.begin("a-s1")
        begun.begin("a-s10")
        begun.excuse(["a-s10"])
    with pytest.warns(SearchWarning, match=r"Received: a, a-s1, during .* without notice 3 times"):
        assert Begun(path, ()).is_late("a-s1", "a")
    assert not Begun(path, ()).is_late("a-s10", "b")


def test_a_trial_with_a_record_is_forgotten(path):
    begun = Begun(path, ())
    for key in ("a", "b", "a"):
        begun.begin(key)
    Begun(path, {"a"})
    assert path.read_text() == "b\n"


@pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff\x00\n\n", b"a\na\na-s"])
def test_a_file_cut_off_or_damaged_stops_nothing(path, content):
    path.write_bytes(content)
    begun = Begun(path, ())
    begun.begin("c")
    assert path.read_text().endswith("c\n")
    begun.excuse(["c"])
    assert "c" not in path.read_text()


def test_a_log_that_is_no_file(path):
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"must be a file that it wrote\. Received: .*begun\.log"):
        Begun(path, ())
