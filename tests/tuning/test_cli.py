"""The console script: what it loads, its exit codes, and what it does with a fault of ours."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import click
import pytest

import keras_se
from tuning import cli

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))
HEAVY = {"keras", "keras_se", "keras_tuner", "numpy", "rich", "tensorflow"}


# Without -P the working directory would be first on the path, unlike for the console script.
COMMAND_LINE = (
    sys.executable,
    "-P",
    "-c",
    "import sys, tuning.cli\ntry:\n    tuning.cli.main()\n"
    "finally:\n    print(*{name.split('.')[0] for name in sys.modules})",
)


def heavy(loaded):
    return set(loaded.split()) & HEAVY


def started(*words):
    """Returns the exit code, what was printed, and which heavy packages were loaded."""
    process = subprocess.run([*COMMAND_LINE, *words], capture_output=True, text=True)
    *printed, loaded = process.stdout.splitlines()
    return process.returncode, "\n".join(printed), process.stderr, heavy(loaded)


def test_help_and_version_load_nothing_heavy():
    code, printed, errors, loaded = started("--help")
    assert (code, errors, loaded) == (0, "", set())
    for name in cli.COMMANDS:
        assert f"\n  {name} " in printed
    version = f"keras-se, version {keras_se.__version__}"
    assert started("--version") == (0, version, "", set())


def test_wrong_use_loads_nothing_heavy():
    code, printed, errors, loaded = started()
    assert (code, printed, loaded) == (2, "", set())
    assert "Usage: keras-se" in errors
    code, printed, errors, loaded = started("gate")
    assert (code, printed, loaded) == (2, "", set())
    assert "No such command 'gate'" in errors


def test_help_is_fast():
    """In half a second on an idle machine; the best of three, for busy ones."""

    def seconds(*words):
        start = time.monotonic()
        subprocess.run(words, capture_output=True, check=True)
        return time.monotonic() - start

    python = min(seconds(sys.executable, "-c", "pass") for _ in range(3))
    assert min(seconds(SCRIPT, "--help") for _ in range(3)) < 0.4 + 3 * python


def test_the_first_second_of_a_command_and_what_it_loads(tmp_path):
    """Python finds the user's module `mine`, but not one named `tuning`: this package hides it."""
    (tmp_path / "mine.py").write_text("import numpy as np\ndef f():\n    return np.ones(3), 1, 2\n")
    (tmp_path / "tuning.py").write_text("")
    start = time.monotonic()
    with subprocess.Popen(
        [*COMMAND_LINE, "demo", "--data", "mine:f"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        first_line = process.stderr.readline()
        first_after = time.monotonic() - start
        # `communicate` would lose what the first read took beyond the line.
        rest, loaded = process.stderr.read(), process.stdout.read()
    assert (process.returncode, first_line) == (2, "keras-se: loading Keras and TensorFlow ...\n")
    assert first_after < 1.0
    warning, error = rest.splitlines()
    assert warning.startswith(f"Warning: {tmp_path / 'tuning.py'} has the name of this package")
    assert error.startswith("Error: ")
    assert error.endswith("Received: 3 values from 'mine:f'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "tuning.py"]
    assert heavy(loaded) == HEAVY  # the tests above can fail


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(name, capsys):
    assert cli.run([name, "--help"]) == 0
    assert f"Usage: keras-se {name} " in capsys.readouterr().out


def exit_code(monkeypatch, function):
    """Returns the exit code of the console script for a command that calls a function."""
    command = click.Command("x", callback=function)
    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda *_: command)
    monkeypatch.setattr("sys.argv", ["keras-se", "x"])
    monkeypatch.setattr("sys.path", [*sys.path])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return exited.value.code


@pytest.mark.parametrize(("result", "code"), [(None, 0), (True, 0), (False, 1)])
def test_a_command_that_returns_false_has_failed(monkeypatch, result, code):
    assert exit_code(monkeypatch, lambda: result) == code


def raising(error):
    def function():
        os.write(2, b"from C++\n")
        raise error

    return function


UNUSABLE = (
    "Error: A file or folder must be one that can be read or written, with room on its disk. "
    "Received: "
)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (keras_se.errors.InputError("A rule. Received: x"), 2, "Error: A rule. Received: x\n"),
        (keras_se.errors.MissingExtraError("Install it"), 2, "Error: Install it\n"),
        (
            FileNotFoundError(2, "No such file", "x"),
            2,
            f"{UNUSABLE}'x': No such file\n",
        ),
        (
            OSError(28, "No space left on device"),
            2,
            f"{UNUSABLE}No space left on device\n",
        ),
        (
            ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"),
            2,
            "Error: The command line needs the package `tensorflow`, which is not installed. "
            "Install it with: pip install 'keras-se[all]'\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(monkeypatch, capfd, error, code, message):
    assert exit_code(monkeypatch, raising(error)) == code
    assert capfd.readouterr().err == message


def test_a_fault_of_ours_is_3_and_shows_what_libraries_wrote(monkeypatch, capfd):
    assert exit_code(monkeypatch, raising(ZeroDivisionError("a fault"))) == 3
    printed = capfd.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith(
        "ZeroDivisionError: a fault\nfrom C++\nThis is a fault of keras-se; please report it.\n"
    )


def test_native_text_goes_to_the_file_and_python_text_to_the_terminal(capfd):
    with cli.native_stderr_to_file() as path:
        os.write(2, b"from C++\n")
        sys.stderr.write("from Python\n")
        assert path.read_text() == "from C++\n"
    assert not path.exists()
    assert capfd.readouterr().err == "from Python\n"


def test_everything_is_as_before_after_an_error(capfd):
    stderr = sys.stderr
    with pytest.raises(KeyError), cli.native_stderr_to_file() as path:
        raise KeyError
    os.write(2, b"from C++ again\n")
    assert sys.stderr is stderr
    assert not path.exists()
    assert capfd.readouterr().err == "from C++ again\n"


def test_shadowed_modules(tmp_path, monkeypatch):
    """A folder without __init__ is none."""
    for folder in ("file", "package/tuning", "folder/tuning"):
        (tmp_path / folder).mkdir(parents=True)
    others = [tmp_path / "file" / "tuning.py", tmp_path / "package" / "tuning" / "__init__.py"]
    for path in others:
        path.write_text("")
    own = Path(cli.__file__).parents[1]
    folders = [tmp_path / name for name in ("file", "package", "folder")]
    monkeypatch.setattr("sys.path", [str(own), *map(str, folders)])
    assert cli.shadowed_modules() == others
