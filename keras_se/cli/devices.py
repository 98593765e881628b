"""The commands `probe` and `record`."""

import io
from pathlib import Path
from typing import Any

import click
import numpy as np

from keras_se.cli.files import check_output, check_tflite, write_outputs
from keras_se.cli.options import DATA_HELP, choice_option, overwrite_option
from keras_se.data import load_inputs
from keras_se.errors import InputError, import_extra
from keras_se.litert import probe, recorder
from keras_se.litert.graph.flatbuffer import read_bytes
from keras_se.litert.runtime import Runner


@click.command("probe")
@click.argument("tflite", metavar="FILE.tflite")
@click.argument("out", metavar="PROBE.tflite")
@overwrite_option
def probe_command(tflite: str, out: str, overwrite: bool) -> None:
    """Write PROBE.tflite, which computes what FILE.tflite does and also outputs its gates.

    Run it where the file will run: copy it, the samples and recorder.py to the device.
    """
    check_output(out, overwrite, ".tflite")
    check_tflite(tflite)
    write_outputs({out: probe(tflite)}, overwrite)
    click.echo(f"{out}: copy it, the samples and {recorder.__file__} to the device. There:")
    click.echo(f"  python recorder.py {Path(out).name} RECORDING.npz --data SAMPLES.npz")
    click.echo(f"Then: keras-se verify REFERENCE {tflite} --data SAMPLES.npz --gates RECORDING.npz")


@click.command("record")
@click.argument("tflite", metavar="PROBE.tflite")
@click.argument("out", metavar="RECORDING.npz")
@click.option("--data", required=True, help=f"Held-out inputs. {DATA_HELP}")
@choice_option("--kernels", list(recorder.KERNELS), "With the CPU delegate, without, or reference.")
@click.option("--threads", type=click.IntRange(1), default=1)
@overwrite_option
def record_command(
    tflite: str, out: str, data: str, kernels: str, threads: int, overwrite: bool
) -> None:
    """Run PROBE.tflite on this device, and write its gates and outputs to RECORDING.npz.

    The same as recorder.py, which needs only NumPy and LiteRT.
    """
    check_output(out, overwrite, ".npz")
    check_tflite(tflite)
    import_extra("ai_edge_litert.interpreter", "litert")
    runner = Runner(tflite)
    x, _ = load_inputs(data, runner.shapes)
    try:
        arrays = recorder.record(read_bytes(tflite), runner.arranged(x), kernels, threads)
    except recorder.RecordingError as error:
        raise InputError(str(error)) from error
    members: dict[str, Any] = dict(arrays)
    file = io.BytesIO()
    np.savez(file, **members)
    write_outputs({out: file.getvalue()}, overwrite)
    click.echo(f"{out}: {', '.join(name for name in arrays if name != recorder.NOTES)}")
    click.echo(arrays[recorder.NOTES].item().decode())
