"""What the CPU delegate (XNNPACK) takes of a TFLite file, and in how many partitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel
from keras_se.litert.graph.sites import main_nodes, operator_names
from keras_se.litert.runtime import load, runtime_errors
from keras_se.sites.site import PREFIXES


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


def delegation(tflite: TFLite, interpreter: Any = None) -> Delegation:
    """Returns the delegation of a TFLite file by the default interpreter on this CPU."""
    file = TFLiteModel.of(tflite)
    names = tuple(operator_names(file))
    interpreter = load(file) if interpreter is None else interpreter
    with runtime_errors(len(file.content)):
        operations = _operations(interpreter)
    # The nodes of the delegate stand behind the operations that they replace.
    taken = _taken(operations[: len(names)], operations[len(names) :])
    delegated = tuple(position in taken for position in range(len(names)))
    sites = [
        SiteDelegation(node.site.name, node.operators, tuple(delegated[n] for n in node.positions))
        for node in main_nodes(file, tuple(PREFIXES))
    ]
    partitions = len(operations) - len(names)
    return Delegation(names, delegated, partitions, {site.name: site for site in sites})


_Operation = tuple[list[int], list[int]]  # its input and its output tensors


def _taken(operations: Sequence[_Operation], nodes: Sequence[_Operation]) -> set[int]:
    """Returns the positions of the operations that lie between the ends of a delegate's node."""
    producers = {tensor: n for n, (_, outputs) in enumerate(operations) for tensor in outputs}
    taken: set[int] = set()
    for inputs, outputs in nodes:
        given, to_visit = set(inputs), list(outputs)
        while to_visit:
            position = producers.get(to_visit.pop())
            if position is not None and position not in taken:
                taken.add(position)
                to_visit += set(operations[position][0]) - given
    return taken


def _operations(interpreter: Any) -> list[_Operation]:
    # LiteRT has no public list of operations; `tests/test_private.py` allows this exception.
    return [
        (list(map(int, details["inputs"])), list(map(int, details["outputs"])))
        for details in interpreter._get_ops_details()
    ]
