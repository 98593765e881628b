import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers.bottleneck import bottleneck_width


@pytest.mark.parametrize(
    ("channels", "ratio", "divisor", "expected"),
    [
        (64, 16, 1, 4),
        (3, 1.5, 1, 2),
        (8, 16, 1, 1),  # never 0
        (33, 1.1, 1, 30),  # 33 / 1.1 is 29.999... in binary floating point
        (143, 4, 8, 40),  # 35.75: 32 is below 90 % of it
        (72, 4, 8, 24),  # 18: the nearest multiple is 16, below 90 % of it
        (240, 4, 8, 64),  # 60
        (960, 4, 8, 240),
        (16, 16, 8, 8),  # never below the divisor
        (20, 1, 8, 24),  # 20 is half way: up
        (5, np.float32(2.5), 1, 2),
        (6, np.int64(2), 1, 3),
    ],
)
def test_width(channels, ratio, divisor, expected):
    assert bottleneck_width(channels, ratio, divisor=divisor) == expected


def test_width_sets_it_outright():
    assert bottleneck_width(64, 16, width=7, divisor=8) == 7


def test_divisor_follows_the_published_rule():
    """`make_divisible` as the MobileNet models state it, on values that are exact in binary."""
    for channels in (8, 16, 40, 64, 72, 120, 143, 240, 672, 960):
        for ratio in (1, 2, 4, 16):
            value, divisor = channels / ratio, 8
            expected = max(divisor, int(value + divisor / 2) // divisor * divisor)
            if expected < 0.9 * value:
                expected += divisor
            assert bottleneck_width(channels, ratio, divisor=8) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.25}, r"ratio is a divisor .* for the fraction 0\.25 use ratio=4\. Received: "),
        ({"ratio": 0}, r"at least 1\. Received: ratio=0$"),
        ({"ratio": -2}, r"at least 1\. Received: ratio=-2$"),
        ({"ratio": float("nan")}, r"ratio must be a finite number .* Received: ratio=nan"),
        ({"ratio": float("inf")}, r"ratio must be a finite number .* Received: ratio=inf"),
        ({"ratio": "16"}, r"ratio must be a finite number .* Received: ratio='16'"),
        ({"ratio": True}, r"ratio must be a finite number .* Received: ratio=True"),
        ({"width": 0}, r"width must be None or an integer of at least 1\. Received: width=0"),
        ({"width": 1.5}, r"width must be None or an integer of at least 1\. Received: width=1.5"),
        ({"divisor": 0}, r"divisor must be an integer of at least 1\. Received: divisor=0"),
        ({"divisor": True}, r"divisor must be an integer .* Received: divisor=True"),
        ({"channels": 0}, r"channels must be an integer of at least 1\. Received: channels=0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        bottleneck_width(**{"channels": 8, **arguments})


@pytest.mark.parametrize("arguments", [{"width": 2**16 + 1}, {"divisor": 2**40}])
def test_a_width_that_would_fill_the_memory(arguments):
    with pytest.raises(InputError, match=r"at most 65,536\. Received: (65,537|1,099,511)"):
        bottleneck_width(64, **arguments)
    assert bottleneck_width(2**17, 1) == 2**17  # as wide as the map is no typo
