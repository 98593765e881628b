"""Squeeze-and-Excitation for graph data."""

from collections.abc import Callable
from typing import Any, Unpack

import keras
import numpy as np
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.excitation import Excitation, ExcitationArguments
from keras_se.layers.precision import in_float32
from keras_se.layers.squeezes import MIN_VARIANCE, SqueezeName


@keras.saving.register_keras_serializable(package="keras_se")
class GraphSEBlock(Excitation):
    """Squeeze-and-Excitation for a batch of graphs in disjoint mode.

    A batch is one union of graphs: one matrix with the features of all nodes, and the number of its
    graph for each node. The block squeezes and excites each graph on its own and recalibrates its
    nodes with its gates. The graphs of a batch do not influence each other.

    Args:
        ratio: As for `SEBlock`.
        squeeze: `"avg"`, `"max"`, `"avg_max"` or `"std"`.
        **kwargs: All other arguments of `SEBlock` except `data_format`.

    Call arguments:
        inputs: `(nodes, segment_ids)`: features of shape (nodes, channels), and integers of shape
            (nodes,), at least 0 and in any order. `gates` checks their range, a call does not. The
            squeeze of a graph without nodes is 0.
        num_graphs: Number of graphs, by default the largest id plus one. Required if the last
            graphs have no nodes, and under XLA and JAX, which need a static number.
        return_gates: If `True`, returns `(outputs, gates)`.

    Output shape:
        The shape of the node features. Gates have the shape `(graphs, channels)`.

    Raises:
        InputError: If an argument is invalid, or the inputs do not have these shapes.

    Note:
        `fit` and `predict` cut arrays into batches of rows, which splits graphs. Pass a dataset
        whose elements are whole unions, such as `tf.data.Dataset.from_generator` over lists of
        graphs without a further `batch`. For a single union call `model(inputs)`,
        `model.predict_on_batch(inputs)`, or `predict(inputs, batch_size=number_of_nodes)`.

    Source: Hu et al., arXiv 1709.01507v4, section 3, pooled over the nodes of a graph. The
    documentation of Spektral, "Data modes", describes the disjoint mode.

    Example:
        >>> import numpy as np
        >>> nodes, graphs = np.ones((5, 8), "float32"), np.array([0, 0, 1, 1, 1])
        >>> block = GraphSEBlock(ratio=4)
        >>> block((nodes, graphs)).shape
        TensorShape([5, 8])
        >>> block.gates(nodes, graphs).shape
        (2, 8)
    """

    def __init__(
        self,
        ratio: float = 16,
        *,
        squeeze: SqueezeName = "avg",
        **kwargs: Unpack[ExcitationArguments],
    ) -> None:
        super().__init__(ratio, squeeze=squeeze, **kwargs)
        if self.squeeze not in _SEGMENT_SQUEEZES:
            raise InputError(
                f"GraphSEBlock supports the squeezes {sorted(_SEGMENT_SQUEEZES)} only. "
                f"Received: squeeze={self.squeeze!r}"
            )

    def build(self, input_shape: Any) -> None:
        """Creates the weights for the number of channels of the node features."""
        nodes_shape, ids_shape = input_shape
        _check_shapes(nodes_shape, ids_shape)
        self.build_excitation(nodes_shape[-1])

    def call(self, inputs: Any, num_graphs: int | None = None, return_gates: bool = False) -> Any:
        """Recalibrates the nodes; see the class."""
        nodes, segment_ids = inputs
        _check_shapes(nodes.shape, segment_ids.shape)
        if "int" not in keras.backend.standardize_dtype(segment_ids.dtype):
            raise InputError(f"segment_ids must be integers. Received: dtype {segment_ids.dtype}")
        # The segment operations of TensorFlow take int32 and int64 only.
        if keras.backend.standardize_dtype(segment_ids.dtype) not in ("int32", "int64"):
            segment_ids = ops.cast(segment_ids, "int32")
        gates, shift = self.excite(self._squeezed(nodes, segment_ids, num_graphs))
        outputs = nodes * ops.take(gates, segment_ids, axis=0)
        if shift is not None:
            outputs = outputs + ops.take(shift, segment_ids, axis=0)
        return (outputs, gates) if return_gates else outputs

    def _squeezed(self, nodes: Any, segment_ids: Any, num_graphs: int | None) -> Any:
        """Returns the squeeze of each graph, shape (graphs, channels)."""
        if nodes.shape[0] == 0 and not num_graphs:
            return nodes  # Keras under PyTorch has no reduction to 0 segments
        count = _number_of_graphs(segment_ids) if num_graphs is None else num_graphs
        _check_static(count)
        squeeze = _SEGMENT_SQUEEZES[self.squeeze]
        return in_float32(lambda features: squeeze(features, segment_ids, count), nodes)

    def gates(self, nodes: Any, segment_ids: Any, num_graphs: int | None = None) -> np.ndarray:
        """Returns the gates of each graph.

        Args:
            nodes: Array of node features, shape (nodes, channels).
            segment_ids: Integers of shape (nodes,): the graph of each node.
            num_graphs: Number of graphs, by default the largest id plus one.

        Returns:
            Array of shape (graphs, channels), in the block's compute dtype.

        Raises:
            InputError: If an input is symbolic, or an id is negative or not below `num_graphs`.

        Example:
            >>> import numpy as np
            >>> block = GraphSEBlock(ratio=2)
            >>> block.gates(np.zeros((2, 2), "float32"), np.array([0, 2]), num_graphs=4)[:, 0]
            array([0.5, 0.5, 0.5, 0.5], dtype=float32)
        """
        if isinstance(nodes, keras.KerasTensor) or isinstance(segment_ids, keras.KerasTensor):
            raise InputError(
                "GraphSEBlock.gates needs arrays; for symbolic tensors call the block with "
                f"return_gates=True. Received: {nodes!r} and {segment_ids!r}"
            )
        ids = np.asarray(segment_ids)
        limit = np.inf if num_graphs is None else num_graphs
        if ids.size and not (ids.min() >= 0 and ids.max() < limit):
            raise InputError(
                f"segment_ids must be at least 0 and below num_graphs={num_graphs}. "
                f"Received: {ids.min()} to {ids.max()}"
            )
        _, gates = self((nodes, segment_ids), num_graphs=num_graphs, return_gates=True)
        return ops.convert_to_numpy(gates)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the node features."""
        return tuple(input_shape[0])

    def compute_output_spec(
        self, inputs: Any, num_graphs: int | None = None, return_gates: bool = False
    ) -> Any:
        """Returns symbolic outputs, and symbolic gates if `return_gates`."""
        nodes, segment_ids = inputs
        _check_shapes(nodes.shape, segment_ids.shape)
        outputs = keras.KerasTensor(nodes.shape, dtype=self.compute_dtype)
        if not return_gates:
            return outputs
        shape = (num_graphs, nodes.shape[-1])
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)


def _check_shapes(nodes: Any, ids: Any) -> None:
    fits = len(nodes) == 2 and len(ids) == 1 and nodes[-1] is not None
    if not fits or (None not in (nodes[0], ids[0]) and nodes[0] != ids[0]):
        raise InputError(
            "GraphSEBlock needs (nodes, segment_ids) of shapes (nodes, channels) and (nodes,), "
            f"with a known number of channels. Received: {tuple(nodes)} and {tuple(ids)}"
        )


def _check_static(count: Any) -> None:
    """Raises `InputError` if JAX traces the number of graphs."""
    if keras.backend.backend() != "jax" or isinstance(count, int):
        return
    # JAX compiles for a static number of segments; `int` fails on a traced value.
    try:
        int(count)
    except TypeError as error:
        raise InputError(
            "GraphSEBlock needs num_graphs when JAX compiles it. Received: num_graphs=None"
        ) from error


def _number_of_graphs(segment_ids: Any) -> Any:
    """Returns the largest id plus one, or 0 without nodes."""
    # The appended -1 keeps `max` defined for an empty union, which a traced one may be.
    return ops.max(ops.concatenate([segment_ids, -ops.ones((1,), segment_ids.dtype)])) + 1


def _counts(nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    """Returns the number of nodes of each graph, shape (graphs, 1)."""
    return ops.segment_sum(ops.ones_like(nodes[:, :1]), segment_ids, num_graphs)


def _avg(nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    counts = _counts(nodes, segment_ids, num_graphs)
    return ops.segment_sum(nodes, segment_ids, num_graphs) / ops.maximum(
        counts, ops.ones_like(counts)
    )


def _max(nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    # `segment_max` of an empty graph is the lowest number of the type or -inf.
    highest = ops.segment_max(nodes, segment_ids, num_graphs)
    return _zero_where_empty(highest, nodes, segment_ids, num_graphs)


def _avg_max(nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    return 0.5 * (_avg(nodes, segment_ids, num_graphs) + _max(nodes, segment_ids, num_graphs))


def _std(nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    centred = nodes - ops.take(_avg(nodes, segment_ids, num_graphs), segment_ids, axis=0)
    variance = _avg(ops.square(centred), segment_ids, num_graphs)
    deviation = ops.sqrt(ops.maximum(variance, MIN_VARIANCE))
    return _zero_where_empty(deviation, nodes, segment_ids, num_graphs)


def _zero_where_empty(pooled: Any, nodes: Any, segment_ids: Any, num_graphs: Any) -> Any:
    empty = _counts(nodes, segment_ids, num_graphs) == 0
    return ops.where(empty, ops.zeros_like(pooled), pooled)


_SEGMENT_SQUEEZES: dict[Any, Callable[..., Any]] = {
    "avg": _avg,
    "max": _max,
    "avg_max": _avg_max,
    "std": _std,
}
