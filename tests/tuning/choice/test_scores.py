import math

import numpy as np
import pytest

from keras_se.errors import InputError
from tuning import ScoreTable

NAN = math.nan


def table(**changes):
    arguments = {
        "names": ("a", "b"),
        "scores": [[1, 2, 3], [4, 5, 6]],
        "parameters": (20, 10),
        "complexity": (2.0, 1.0),
    }
    return ScoreTable(**(arguments | changes))


def test_arrays_and_lists_become_tuples():
    plain = table()
    assert table(names=["a", "b"], scores=np.array(plain.scores), parameters=[20, 10]) == plain
    assert hash(plain) == hash(table())
    assert plain.scores == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert plain.first_seeds == plain.seeds == 3


def test_direction_turns_scores_into_losses():
    assert table().losses.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert table(direction="max").losses.tolist() == [[-1, -2, -3], [-4, -5, -6]]


@pytest.mark.parametrize("broken", [NAN, math.inf, -math.inf])
def test_diverged_candidates_are_not_complete(broken):
    assert table(scores=[[1, broken, 3], [4, 5, 6]]).complete == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ()}, r"sequence of different names, at least one\. Received: names=\(\)"),
        ({"names": ("a", "a")}, r"different names.*Received: names=\('a', 'a'\)"),
        ({"names": "ab"}, "Received: names='ab'"),
        ({"scores": [[1, 2, 3]]}, r"one row for each.*Received: 2 names and rows of lengths \[3\]"),
        ({"scores": [[1, 2], [3, 4]]}, r"at least 3 seeds\. Received: .*lengths \[2, 2\]"),
        ({"scores": [[1, 2, 3], [4, 5]]}, r"of one length.*lengths \[3, 2\]"),
        ({"scores": []}, r"lengths \[\]"),
        ({"parameters": (1,)}, r"parameters must hold one finite.*Received: 2 .*parameters=\(1,\)"),
        ({"parameters": (1, -1)}, r"at least 0.*parameters=\(1, -1\)"),
        ({"complexity": (1.0, NAN)}, r"complexity must hold.*complexity=\(1.0, nan\)"),
        ({"direction": "up"}, r"direction must be 'min' or 'max'\. Received: direction='up'"),
        ({"first_seeds": 2}, r"first_seeds must be from 3 to .* 3\. Received: first_seeds=2"),
        ({"first_seeds": 4}, "Received: first_seeds=4"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(InputError, match=message):
        table(**changes)
