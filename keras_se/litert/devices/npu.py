"""What an Arm Ethos-U NPU makes of a TFLite file, as its compiler estimates it.

Source: the tables that `vela --verbose-performance` writes (ethos-u-vela 5.2, OPTIONS.md). A row is
a step of the compiler, named by the tensor that it makes. An operator may become several steps,
whose intermediate tensors are new, and a step may take up the activation behind it.
"""

import csv
import importlib.metadata
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from keras_se.errors import InputError, import_extra
from keras_se.litert.devices.npu_report import NpuReport, SiteOnNpu
from keras_se.litert.graph.excitations import MATRICES
from keras_se.litert.graph.flatbuffer import Operator, SubGraph, TFLite, TFLiteModel
from keras_se.litert.graph.sites import GateNode, main_nodes
from keras_se.sites.site import PREFIXES

Accelerator = Literal[
    "ethos-u55-128",
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
]
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)

_SECONDS = 300.0  # for the compiler; networks for phones take a few
_CODES = {"INT8", "UINT8"}


def npu(
    tflite: TFLite, accelerator: Accelerator = "ethos-u55-128", *, seconds: float = _SECONDS
) -> NpuReport:
    """Returns what an Arm Ethos-U NPU makes of an int8 file, and what SE costs there.

    Args:
        tflite: The bytes of the file, or its path.
        accelerator: Name of the NPU with its number of MACs per cycle, such as `"ethos-u65-256"`.
            System and memory are those that the compiler takes by default.
        seconds: Limit of time for the compiler, which runs in a process of its own.

    Returns:
        An `NpuReport`: cycles, and by site the operators that stay on the CPU; `print(report)`.

    Raises:
        InputError: If the file is not in int8, the accelerator is unknown, or the compiler does
            not take the file.
        MissingExtraError: If LiteRT or the compiler, `keras-se[npu]`, is not installed.

    Source: Arm's compiler for Ethos-U, https://pypi.org/project/ethos-u-vela.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from keras_se import SEBlock, to_tflite
        >>> model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4, squeeze="std")])
        >>> x = np.random.default_rng(0).random((100, 8, 8, 16))
        >>> npu(to_tflite(model, "int8", x)).sites["se_1"].on_cpu
        ('SQRT',)
    """
    file = TFLiteModel.of(tflite)
    if accelerator not in ACCELERATORS:
        raise InputError(
            f"accelerator must be one of {list(ACCELERATORS)}. Received: {accelerator!r}"
        )
    _check_codes(file)
    steps, compiler = _compiled(file.content, accelerator, seconds)
    placed = file.read(lambda graph: () if graph.index else _placed(graph, steps))
    graph = file.graphs[0]
    cycles = Counter[int]()
    for step, position in placed:
        if position is not None:
            cycles[position] += step.cycles
    on_cpu = sorted({n for step, n in placed if n is not None and step.target == "CPU"})
    sites = {
        node.site.name: _site(graph, node, cycles, on_cpu)
        for node in main_nodes(file, tuple(PREFIXES))
    }
    return NpuReport(
        accelerator=accelerator,
        compiler=compiler,
        cycles=sum(step.cycles for step, _ in placed),
        operators=len(graph.operators),
        on_cpu=tuple(graph.operators[position].name for position in on_cpu),
        sites=sites,
        unplaced=sum(position is None for _, position in placed),
    )


@dataclass(frozen=True)
class _Step:
    """A row of the compiler's table: the operator that it is made of, and the tensor it makes."""

    operator: str
    target: str
    cycles: int
    tensor: str


def _check_codes(file: TFLiteModel) -> None:
    made = set(file.read(_types))
    if not made & _CODES:
        raise InputError(
            "npu needs an int8 file: an NPU computes with 8-bit activations, not with floats. "
            f"Received: {len(file.content)} bytes whose operators give {sorted(made)}"
        )


def _types(graph: SubGraph) -> list[str]:
    return [graph.type(tensor) for operator in graph.operators for tensor in operator.outputs]


def _compiled(content: bytes, accelerator: str, seconds: float) -> tuple[list[_Step], str]:
    """Returns the steps that the compiler makes of a file, and what it assumes."""
    import_extra("ethosu.vela", "npu")
    options = ("--accelerator-config", accelerator, "--verbose-performance")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.tflite")
        path.write_bytes(content)
        _run([*options, "--show-cpu-operations", "--output-dir", folder, str(path)], seconds)
        try:
            (steps,) = map(_rows, Path(folder).glob("*_per-layer.csv"))
            (summary,) = map(_rows, Path(folder).glob("*_summary_*.csv"))
            assumed = ", ".join((summary[0]["system_config"], summary[0]["memory_mode"]))
            return [*map(_step, steps)], f"ethos-u-vela {_version()} with {assumed}"
        except (KeyError, IndexError, ValueError) as error:
            raise _refusal(f"its tables are not as expected: {error!r}") from error


def _version() -> str:
    return importlib.metadata.version("ethos-u-vela")


def _run(words: Sequence[str], seconds: float) -> None:
    """Runs the compiler, which may crash or hang on a file, in a process of its own."""
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter, and a module of the extra)
            [sys.executable, "-P", "-m", "ethosu.vela", *words],
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise _refusal(f"it took more than {seconds:g} seconds") from error
    if done.returncode < 0:
        raise _refusal(f"it ended with signal {-done.returncode}")
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").split("\n")
        lines = [line.strip() for line in said if line.strip()] or ["nothing"]
        errors = [line for line in lines if "Error" in line] or lines
        raise _refusal(f"it says: {errors[-1]}")


def _refusal(reason: str) -> InputError:
    return InputError(
        "npu needs a file that the compiler of the NPU, ethos-u-vela, takes: for one sample, of "
        f"known sizes. Received: {reason}"
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _step(row: Mapping[str, str]) -> _Step:
    cycles = int(float(row["Op Cycles"]))
    return _Step(row["Original Operator"], row["Target"], cycles, row["Name"])


def _placed(graph: SubGraph, steps: Sequence[_Step]) -> list[tuple[_Step, int | None]]:
    """Returns each step with the position of the operator that it is a part of, where known."""
    makers = _makers(graph)
    behind: _Step | None = None
    following: Operator | None = None  # that the step behind is a part of
    found: list[tuple[_Step, int | None]] = []
    for step in reversed(steps):
        if behind is not None and step.tensor == behind.tensor:
            # It took up the step behind: an activation, fused in the file or an operator there.
            is_one = step.operator == behind.operator or bool(following and following.activation)
            operator = following if is_one else _before(graph, following)
        elif step.tensor in makers:
            operator = makers[step.tensor]
        else:
            # An operator of several steps has intermediate tensors.
            is_part = behind is not None and step.operator == behind.operator
            operator = following if is_part else None
        found.append((step, None if operator is None else operator.position))
        behind, following = step, operator
    return found[::-1]


def _makers(graph: SubGraph) -> dict[str, Operator | None]:
    """Returns the operators by the names of the tensors that they make; `None` for several."""
    made = [(graph.name(tensor), o) for o in graph.operators for tensor in o.outputs]
    names = Counter(name for name, _ in made)
    return {name: operator if names[name] == 1 else None for name, operator in made}


def _before(graph: SubGraph, operator: Operator | None) -> Operator | None:
    inputs = [] if operator is None else graph.data_inputs(operator)
    return graph.producers.get(inputs[0]) if len(inputs) == 1 else None


def _site(
    graph: SubGraph, node: GateNode, cycles: Mapping[int, int], on_cpu: Sequence[int]
) -> SiteOnNpu:
    *inner, product = node.positions
    after = _behind_matrices(graph, inner)
    return SiteOnNpu(
        operators=node.operators,
        on_cpu=tuple(graph.operators[n].name for n in node.positions if n in on_cpu),
        squeeze=sum(cycles.get(n, 0) for n in inner if n not in after),
        excitation=sum(cycles.get(n, 0) for n in inner if n in after),
        product=cycles.get(product, 0),
    )


def _behind_matrices(graph: SubGraph, positions: Sequence[int]) -> set[int]:
    """Returns the operators of a site that are its matrices, or computed from them."""
    after, made = set[int](), set[int]()
    for operator in (graph.operators[n] for n in positions):
        if operator.name in MATRICES or made.intersection(operator.inputs):
            after.add(operator.position)
            made.update(operator.outputs)
    return after
