"""Clustering of the weights of SE models: few values for each kernel, while they train on."""

import math
from typing import Any

import keras

from keras_se.compress.bridge import translate
from keras_se.compress.loading import load_tfmot
from keras_se.compress.origins import CLUSTERED, Origin
from keras_se.compress.training import trainable_model
from keras_se.compress.wrapping import check_scope, rebuilt_in_scope
from keras_se.errors import InputError

INITIALIZATIONS = ("kmeans++", "linear", "random", "density")


def cluster(
    model: keras.Model,
    clusters: int = 16,
    *,
    initialization: str = "kmeans++",
    preserve_sparsity: bool = False,
    scope: str = "all",
) -> Any:
    """A model each of whose kernels has few different values, which train on.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, as
            `to_tf_keras` takes it. It is not changed.
        clusters: Number of values in a kernel, 2 or more. A kernel that has no more weights than
            this, and depthwise ones, are left as they are; so are biases and statistics.
        initialization: Where the values start: `"kmeans++"`, `"linear"` between the smallest and
            the largest weight, `"random"`, or by their `"density"`.
        preserve_sparsity: Whether zero weights of a pruned model stay zero.
        scope: `"all"` kernels, those of the `"trunk"`, or those of `"se"`.

    Returns:
        A `tf_keras.Model` to `compile` and `fit`, with the objects of Keras 3 or of tf_keras;
        `strip` makes a Keras 3 model of it.

    Raises:
        InputError: If an argument breaks its rule, or the model cannot be carried to tf_keras.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Source: Han et al., arXiv 1510.00149, section 3; TensorFlow Model Optimization, "Weight
    clustering".

    Example:
        >>> from keras_se.compress import strip
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        >>> len(set(strip(cluster(model, 4)).layers[0].kernel.numpy().ravel().tolist()))
        4
    """
    check_scope("cluster", scope)
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise InputError(f"clusters is a number of values, 2 or more. Received: {clusters!r}")
    if initialization not in INITIALIZATIONS:
        raise InputError(
            f"initialization is one of {list(INITIALIZATIONS)}. Received: {initialization!r}"
        )
    clustering = load_tfmot().clustering.keras
    starts = clustering.CentroidInitialization
    centroids = {
        "kmeans++": starts.KMEANS_PLUS_PLUS,
        "linear": starts.LINEAR,
        "random": starts.RANDOM,
        "density": starts.DENSITY_BASED,
    }

    def wrap(layer: Any) -> Any:
        if math.prod(layer.kernel.shape) <= clusters:
            return layer
        return clustering.cluster_weights(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=centroids[initialization],
            preserve_sparsity=preserve_sparsity,
        )

    wrapped = rebuilt_in_scope("cluster", translate(model), scope, wrap)
    return trainable_model(wrapped, Origin(model, CLUSTERED))
