"""Runs TFLite files in a process of its own, which may crash, hang or fill the memory."""

import subprocess
import sys
from collections.abc import Sequence

from keras_se.errors import InputError, import_extra

SECONDS = 60.0  # for each file to load and to run once

# It imports neither Keras nor this package, to start fast. Only the last line is shown.
_SCRIPT = """
import sys
try:
    import os, resource
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, OSError, ValueError):
    pass  # Windows has no such limits
import numpy
from ai_edge_litert.interpreter import Interpreter
for size in map(int, sys.argv[1:]):
    try:
        interpreter = Interpreter(model_content=sys.stdin.buffer.read(size), num_threads=1)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            if details["dtype"] is not numpy.bytes_:
                zeros = numpy.zeros(details["shape"], details["dtype"])
                interpreter.set_tensor(details["index"], zeros)
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    try:
        interpreter.invoke()
    except MemoryError:
        sys.exit("it needs more memory than there is")
    except Exception:
        pass  # zeros may be no input for it, as where all is masked
"""


def check_runs(contents: Sequence[bytes], seconds: float = SECONDS) -> None:
    """Raises `InputError` unless files load, and run on zeros without ending their process."""
    import_extra("ai_edge_litert.interpreter", "litert")
    total = sum(map(len, contents))
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and script)
            # `-P` keeps the working directory, where anything may lie, out of the imports.
            [sys.executable, "-P", "-c", _SCRIPT, *(str(len(content)) for content in contents)],
            input=b"".join(contents),
            capture_output=True,
            check=False,
            timeout=seconds * len(contents),
        )
    except subprocess.TimeoutExpired as error:
        raise _refusal(total, f"it took more than {error.timeout:g} seconds") from error
    if done.returncode < 0:
        raise _refusal(total, f"it ended with signal {-done.returncode}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise _refusal(total, f"the runtime says: {said[-1]}")


def _refusal(size: int, reason: str) -> InputError:
    return InputError(
        "A TFLite file must load in the LiteRT runtime and run once. "
        f"Received: {size} bytes; in a process of its own {reason}"
    )
