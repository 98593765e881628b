"""What the CPU delegate (XNNPACK) takes of a TFLite file, and in how many partitions."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from keras_se.litert.graph.flatbuffer import TFLite, read_bytes
from keras_se.litert.graph.sites import main_nodes, operator_names
from keras_se.litert.runtime import load


@dataclass(frozen=True)
class SiteDelegation:
    """The operations of an SE site and whether the delegate takes them.

    Attributes:
        name: Name of the site.
        operators: Names of its operations, from the pooling to the product.
        delegated: Whether the delegate takes each operation.
    """

    name: str
    operators: tuple[str, ...]
    delegated: tuple[bool, ...]

    @property
    def undelegated(self) -> tuple[str, ...]:
        """The operations that the delegate does not take."""
        pairs = zip(self.operators, self.delegated, strict=True)
        return tuple(name for name, taken in pairs if not taken)

    @property
    def partitions(self) -> int:
        """Number of delegated runs among the operations; 1 is best."""
        return sum(taken for taken, _ in groupby(self.delegated))


@dataclass(frozen=True)
class Delegation:
    """What the default delegate takes of a file.

    Attributes:
        operators: Names of all operations, in order.
        delegated: Whether the delegate takes each operation.
        partitions: Number of delegate nodes in the running file.
        sites: The SE sites by name.
    """

    operators: tuple[str, ...]
    delegated: tuple[bool, ...]
    partitions: int
    sites: dict[str, SiteDelegation]


def delegation(tflite: TFLite) -> Delegation:
    """Returns the delegation of a TFLite file by the default interpreter on this CPU."""
    content = read_bytes(tflite)
    names = tuple(operator_names(content))
    # With all tensors preserved each operation is a partition of its own, so the outputs of the
    # delegate nodes tell which operations they replace.
    nodes = _operations(load(content, preserve_all_tensors=True))
    made = {output for node in nodes[len(names) :] for output in node}
    delegated = tuple(bool(made & set(node)) for node in nodes[: len(names)])
    # The real partitions show only in an interpreter that preserves nothing.
    partitions = len(_operations(load(content))) - len(names)
    sites = [
        SiteDelegation(node.site.name, node.operators, tuple(delegated[n] for n in node.positions))
        for node in main_nodes(content)
    ]
    return Delegation(names, delegated, partitions, {site.name: site for site in sites})


def _operations(interpreter: Any) -> list[list[int]]:
    """Returns the output tensors of each operation; those of the delegate come last."""
    # LiteRT has no public list of operations; `tests/test_private.py` allows this exception.
    return [list(map(int, details["outputs"])) for details in interpreter._get_ops_details()]
