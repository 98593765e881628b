"""How far a running trial is, by what it has written."""

import pytest

from tuning.trials.perform import Epochs, epochs_of

FIRST, SECOND = b'{"epoch": 1, "score": 0.5}\n', b'{"epoch": 2, "score": null}\n'


@pytest.mark.parametrize(
    ("written", "epochs"),
    [
        (b"", Epochs(0)),
        (FIRST, Epochs(1, 0.5)),
        (FIRST + SECOND, Epochs(2)),
        (FIRST + SECOND[:9], Epochs(1, 0.5)),  # just being written
    ],
)
def test_epochs_so_far(tmp_path, written, epochs):
    curves = tmp_path / "b" / "tmp1" / "curves"
    curves.mkdir(parents=True)
    (curves / "key.jsonl").write_bytes(written)
    assert epochs_of([tmp_path / "a", tmp_path / "b"], "key") == epochs
    assert epochs_of([tmp_path / "b"], "other") == Epochs(0)
