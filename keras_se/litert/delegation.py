"""What the CPU delegate (XNNPACK) takes of a TFLite file, and in how many partitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from keras_se.litert.graph import GateNode, TFLite, main_nodes, operator_names, read_bytes
from keras_se.litert.runtime import load


@dataclass(frozen=True)
class SiteDelegation:
    """The operations of an SE site, and what the delegate makes of them.

    Attributes:
        name: Name of the site.
        operators: Names of its operations, from the pooling to the product.
        delegated: For each, whether the delegate takes it.
        partitions: Number of delegated runs that the site is cut into; 1 is best.
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
        """Number of delegated runs among the operations."""
        return sum(taken for taken, _ in groupby(self.delegated))


@dataclass(frozen=True)
class Delegation:
    """What the default delegate takes of a file.

    Attributes:
        operators: Names of all operations, in their order.
        delegated: For each, whether the delegate takes it.
        partitions: Number of delegate nodes that the file runs with.
        sites: By name, the SE sites.
    """

    operators: tuple[str, ...]
    delegated: tuple[bool, ...]
    partitions: int
    sites: dict[str, SiteDelegation]


def delegation(tflite: TFLite) -> Delegation:
    """The delegation map of a TFLite file under the default interpreter, on this machine's CPU.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        A `Delegation`.

    Raises:
        InputError: If the file is not a TFLite file, or the runtime refuses it.
        MissingExtraError: If LiteRT is not installed.

    Source: LiteRT's interpreter: with all tensors preserved each operation is a partition of its
    own, so that the outputs of the delegate nodes tell which operations they stand for.
    """
    content = read_bytes(tflite)
    names = tuple(operator_names(content))
    nodes = _operations(load(content, preserve_all_tensors=True))
    made = {output for node in nodes[len(names) :] for output in node}
    delegated = tuple(bool(made & set(node)) for node in nodes[: len(names)])
    partitions = len(_operations(load(content))) - len(names)
    sites = {node.site.name: _site(node, delegated) for node in main_nodes(content)}
    return Delegation(names, delegated, partitions, sites)


def _site(node: GateNode, delegated: Sequence[bool]) -> SiteDelegation:
    taken = tuple(delegated[position] for position in node.positions)
    return SiteDelegation(node.site.name, node.operators, taken)


def _operations(interpreter: Any) -> list[list[int]]:
    """The output tensors of each operation, those of the delegate after those of the file.

    LiteRT has no public list of them; `tests/test_private.py` names this one exception.
    """
    return [list(map(int, details["outputs"])) for details in interpreter._get_ops_details()]
