import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.compress import cluster, strip
from keras_se.errors import InputError


def values(model):
    """The number of values in each kernel, by name of the layer."""
    return {
        f"{layer.name}/{v.name}": np.unique(v.numpy()).size
        for layer in model.layers
        for v in layer.trainable_weights
        if len(v.shape) > 1
    }


@pytest.mark.parametrize("scope", ["all", "trunk", "se"])
def test_kernels_in_the_scope_have_few_values_and_no_others(classifier, scope):
    stripped = strip(cluster(classifier, 6, scope=scope))
    before = values(classifier)
    for name, count in values(stripped).items():
        is_se = name.startswith("se_block")
        inside = scope == "all" or is_se == (scope == "se")
        is_whole = not inside or name.startswith("depthwise")
        assert count == (before[name] if is_whole else 6), name
    assert any(isinstance(layer, SEBlock) for layer in stripped.layers)


@pytest.mark.parametrize("initialization", ["kmeans++", "linear", "random", "density"])
def test_initializations(initialization):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    kernel = strip(cluster(model, 4, initialization=initialization)).layers[0].kernel.numpy()
    assert 1 < np.unique(kernel).size <= 4


def test_what_is_trained_is_what_comes_back(classifier, task, fitted):
    clustered = fitted(cluster(classifier, 4, scope="trunk"), task, epochs=2)
    stripped = strip(clustered)
    wanted = clustered.predict(task.x_test, verbose=0)
    difference = np.abs(stripped.predict(task.x_test, verbose=0) - wanted).max()
    assert difference < 0.02 * np.abs(wanted).max()  # tfmot's centroids are a step ahead


def test_zeros_of_a_pruned_model_stay(sparse_and_clustered):
    conv = next(v for v in sparse_and_clustered.layers if v.name.startswith("conv2d"))
    kernel = conv.kernel.numpy()
    assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert np.unique(kernel).size <= 4


def test_a_kernel_with_no_more_weights_than_clusters_is_left():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(8)])
    stripped = strip(cluster(model, 4))
    np.testing.assert_array_equal(stripped.layers[0].kernel, model.layers[0].kernel)
    assert np.unique(stripped.layers[1].kernel).size == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 1}, "clusters must be an integer of at least 2. Received: clusters=1"),
        ({"clusters": 2.0}, "Received: clusters=2.0"),
        ({"clusters": True}, "Received: clusters=True"),
        (
            {"initialization": "zero"},
            "initialization must be one of .* Received: initialization='zero'",
        ),
        ({"scope": "SE"}, "scope must be one of .* Received: scope='SE'"),
        ({"scope": "se"}, "cluster needs kernels in its scope"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match=message):
        cluster(model, **arguments)
