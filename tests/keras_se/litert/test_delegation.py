import keras
import numpy as np

from keras_se import SEBlock, to_tflite
from keras_se.litert.delegation import delegation


def test_a_network_is_delegated_whole(networks, images):
    for gate, model in networks.items():
        for file_format in ("float32", "int8"):
            found = delegation(to_tflite(model, file_format, images))
            assert all(found.delegated)
            assert found.partitions == 1
            assert [site.partitions for site in found.sites.values()] == [1, 1]
            assert len(found.sites["se_1"].operators) == (6 if gate == "one_plus_tanh" else 5)


def test_nothing_of_16_bits_is_delegated(networks, images):
    found = delegation(to_tflite(networks["sigmoid"], "int16x8", images))
    assert not any(found.delegated)
    assert found.partitions == found.sites["se_1"].partitions == 0


def test_a_hard_swish_cuts_the_trunk_and_not_the_site(images):
    layers = [
        keras.layers.Conv2D(8, 3, activation="hard_silu"),
        SEBlock(2),
        keras.layers.Conv2D(4, 1),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    found = delegation(to_tflite(model, "int8", images))
    left = [n for n, taken in zip(found.operators, found.delegated, strict=True) if not taken]
    assert left == ["HARD_SWISH"]
    assert found.partitions == 2
    assert found.sites["se_1"].partitions == 1


def test_whatever_the_batch():
    """The canonical form is in the file for any batch; see also test_convert."""
    model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4)])
    x = np.random.default_rng(0).normal(size=(100, 8, 8, 16))
    assert delegation(to_tflite(model, "int8", x)).operators == (
        *("MEAN", "CONV_2D", "CONV_2D", "LOGISTIC", "MUL"),
    )
