import keras
import numpy as np
import pytest

from keras_se import find_sites
from keras_se.compress import cluster, prune, quantize_aware, strip, to_tf_keras
from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.graph.precision import other_precisions
from keras_se.layers import QuantizeAware
from keras_se.layers.quantization.fake_quantize import is_quantize_aware

layers = keras.layers


def check_stripped(aware, model, x):
    """The stripped model is the very model that was made quantize-aware."""
    plain = strip(aware)
    assert not is_quantize_aware(plain)
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)
    assert np.abs(aware.predict(x, verbose=0) - expected).max() > 0
    return [type(layer).__name__ for layer in plain.layers]


def test_strip_gives_the_very_model_back(residual, aware, images):
    kinds = check_stripped(aware, residual, images[:64])
    assert kinds == [type(layer).__name__ for layer in residual.layers]


@pytest.mark.parametrize(
    ("technique", "compress"),
    [
        ("prune", lambda model, x: prune(model)),
        ("cluster", lambda model, x: cluster(model)),
        ("quantize_aware", lambda model, x: quantize_aware(model, x, input_shape=(8, 8, 3))),
    ],
)
def test_of_a_model_in_half_precision_the_twin_comes_back(
    technique, compress, half_network, images, twins
):
    plain = strip(compress(half_network, images))
    assert other_precisions(plain) == []
    for new, old in zip(plain.weights, half_network.weights, strict=True):
        if technique != "cluster" or len(old.shape) == 1:
            np.testing.assert_array_equal(new, old)
    (warning,) = twins
    assert str(warning.message).startswith(f"{technique} takes the float32 twin of model ")
    assert warning.filename == __file__


def test_a_sequential_model_stays_one(images, wide):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(6, 3, activation="silu"),
            wide("one_plus_tanh"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    aware = quantize_aware(model, images)
    assert isinstance(aware, keras.Sequential)
    assert [type(layer).__name__ for layer in aware.layers] == [
        *("FakeQuantize", "ZeroPadding2D", "QuantizeAware", "QuantizeAwareSEBlock"),
        *("Flatten", "QuantizeAware"),
    ]
    kinds = check_stripped(aware, model, images[:64])
    assert kinds == ["ZeroPadding2D", "Conv2D", "SEBlock", "Flatten", "Dense"]


def test_nested_models_and_shared_layers(images, wide, trained_statistics):
    relu, conv = layers.ReLU(), layers.Conv2D(3, 3, padding="same")
    body = keras.Sequential(
        [keras.Input((8, 8, 3)), conv, layers.BatchNormalization(), wide("hard_sigmoid")],
        name="body",
    )
    inputs = keras.Input((8, 8, 3))
    x = relu(body(inputs))
    x = relu(layers.Add()([conv(x), inputs]))
    model = trained_statistics(keras.Model(inputs, body(x)))
    aware = quantize_aware(model, images)
    assert [site.name for site in find_sites(aware)] == [site.name for site in find_sites(model)]
    assert len({id(part) for part in sublayers(aware) if isinstance(part, QuantizeAware)}) == 1
    check_stripped(aware, model, images[:64])


def without_se():
    return keras.Sequential([keras.Input((3,)), layers.Dense(2)])


def test_strip_needs_a_compressed_model():
    for model, kind in ((without_se(), "Sequential"), (None, "NoneType"), ("model", "str")):
        with pytest.raises(InputError, match=f"strip needs a model that .*Received: {kind}$"):
            strip(model)


def test_a_compressed_model_is_stripped_before_it_is_compressed_again():
    model = without_se()
    x = np.ones((4, 3), "float32")

    def in_tf_keras(model):
        return quantize_aware(model, x, engine="tfmot")

    for compressed in (prune(model), quantize_aware(model, x)):
        for compress in (prune, to_tf_keras, lambda m: quantize_aware(m, x), in_tf_keras):
            with pytest.raises(InputError, match="strip a compressed one first"):
                compress(compressed)


def test_a_subclassed_model_cannot_be_stripped(aware):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = aware

        def call(self, inputs):
            return self.inner(inputs)

    with pytest.raises(InputError, match=r"^strip .*functional .*Sequential.*: Subclassed$"):
        strip(Subclassed())
