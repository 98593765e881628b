"""The console script `keras-se`: says something at once, then loads Keras and runs a command."""

import os
import sys
import traceback

import click

from tuning.quiet import native_stderr_to_file

WRONG_USE, FAULT = 2, 3


def main() -> None:
    """Runs the command line of the process and exits with its code."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    click.echo("keras-se: loading Keras and TensorFlow ...", err=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.append(os.getcwd())  # for --import and --data package.module:function
    with native_stderr_to_file() as log:
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            return 130
        except ModuleNotFoundError as error:
            click.echo(
                f"Error: The command line needs the package `{error.name}`, which is not installed."
                " Install it with: pip install 'keras-se[all]'",
                err=True,
            )
            return WRONG_USE
        except Exception:
            traceback.print_exc()
            native = log.read_text(errors="replace").strip().splitlines()[-20:]
            click.echo("\n".join(native), err=True)
            click.echo("This is a fault of keras-se; please report it.", err=True)
            return FAULT


def _run(arguments: list[str]) -> int:
    import logging

    from keras_se.cli import COMMANDS, run
    from tuning.demo import demo_command

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    return run({"demo": demo_command, **COMMANDS}, arguments)
