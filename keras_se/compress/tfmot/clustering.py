"""Weight clustering of SE models."""

import math
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tfmot
from keras_se.compress.tfmot.bridge.translation import translate
from keras_se.compress.tfmot.scopes import check_scope, rebuilt_in_scope
from keras_se.compress.tfmot.training import trainable_model
from keras_se.errors import InputError
from keras_se.litert.compressed import CLUSTERED, Origin

INITIALIZATIONS = ("kmeans++", "linear", "random", "density")


def cluster(
    model: keras.Model,
    clusters: int = 16,
    *,
    initialization: str = "kmeans++",
    preserve_sparsity: bool = False,
    scope: str = "all",
) -> Any:
    """Wraps a model so that each kernel has few distinct values, which stay trainable.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, that
            `to_tf_keras` accepts. The function does not change it.
        clusters: Number of distinct values in a kernel, 2 or more. Kernels with no more weights
            than this stay as they are, and so do depthwise kernels, biases and statistics.
        initialization: How the values are initialized: `"kmeans++"`, `"linear"` between the
            smallest and the largest weight, `"random"`, or by the `"density"` of the weights.
        preserve_sparsity: Whether zero weights of a pruned model stay zero.
        scope: Which kernels to cluster: `"all"`, those of the `"trunk"`, or those of `"se"`.

    Returns:
        A `tf_keras.Model` to `compile` and `fit`, with objects of Keras 3 or of tf_keras. `strip`
        converts it to a Keras 3 model.

    Raises:
        InputError: If an argument is invalid, or the model cannot be converted to tf_keras.
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
        # Such a kernel already has few values.
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
