"""Weight clustering of SE models."""

import math
from typing import Any, Literal, get_args

import keras

from keras_se.compress.tfmot.bridge.environment import load_tfmot
from keras_se.compress.tfmot.scopes import Scope, compress_in_scope
from keras_se.errors import InputError
from keras_se.graph.compressed import CLUSTERED

Initialization = Literal["kmeans++", "linear", "random", "density"]
INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)


def cluster(
    model: keras.Model,
    clusters: int = 16,
    *,
    initialization: Initialization = "kmeans++",
    preserve_sparsity: bool = False,
    scope: Scope = "all",
) -> Any:
    """Wraps a model so that each kernel has few distinct values, which stay trainable.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, that
            `to_tf_keras` accepts. The function does not change it. Of one that computes in half
            precision, such as `mixed_float16`, the float32 twin is trained.
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

    Warns:
        UserWarning: If kernels in the scope have `trainable=False`, which stay as they are.
        PrecisionWarning: If the model computes in half precision.

    Source: Han et al., arXiv 1510.00149, section 3; TensorFlow Model Optimization, "Weight
    clustering".

    Example:
        >>> from keras_se.compress import strip
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        >>> len(set(strip(cluster(model, 4)).layers[0].kernel.numpy().ravel().tolist()))
        4
    """
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise InputError(
            f"clusters must be an integer of at least 2. Received: clusters={clusters!r}"
        )
    if initialization not in INITIALIZATIONS:
        raise InputError(
            f"initialization must be one of {list(INITIALIZATIONS)}. "
            f"Received: initialization={initialization!r}"
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

    return compress_in_scope(CLUSTERED, model, scope, wrap)
