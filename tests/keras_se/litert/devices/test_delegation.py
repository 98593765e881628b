import keras
import pytest

from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.graph.flatbuffer import packed, unpacked


def test_a_network_is_delegated_whole(files):
    for gate, name in (("sigmoid", "float32"), ("hard_sigmoid", "int8"), ("one_plus_tanh", "int8")):
        found = delegation(files[gate, name])
        assert all(found.delegated)
        assert found.partitions == 1
        assert [site.partitions for site in found.sites.values()] == [1, 1]
        assert len(found.sites["se_1"].operators) == (6 if gate == "one_plus_tanh" else 5)


def test_nothing_of_16_bits_is_delegated(files):
    found = delegation(files["sigmoid", "int16x8"])
    assert not any(found.delegated)
    assert found.sites["se_1"].undelegated == found.sites["se_1"].operators
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


def test_a_name_that_is_no_text(files):
    model = unpacked(files["sigmoid", "float32"])
    model.subgraphs[0].tensors[3].name = b"\xff\xfe"
    with pytest.raises(InputError, match=r"readable tensors\. Received: .* decode byte 0xff"):
        delegation(packed(model))
