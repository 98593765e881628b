"""The console script: its first second, its exit codes, and what it does with a fault of ours."""

import subprocess
import sysconfig
import time
from pathlib import Path

import click
import pytest

from tuning import cli

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))


def test_a_message_within_a_second_and_exit_code_2(tmp_path):
    started = time.monotonic()
    with subprocess.Popen(
        [SCRIPT, "gates", "no.keras", "--data", "no.npz"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        first_line = process.stderr.readline()
        first_after = time.monotonic() - started
        out, rest = process.communicate()
    assert first_line == "keras-se: loading Keras and TensorFlow ...\n"
    assert first_after < 1.0
    assert process.returncode == 2
    assert rest == "Error: A model must be an existing .keras file. Received: 'no.keras'\n"
    assert out == ""


def test_modules_of_the_working_directory_are_found(tmp_path):
    (tmp_path / "mine.py").write_text("import numpy as np\ndef f():\n    return np.ones(3), 1, 2\n")
    process = subprocess.run(
        [SCRIPT, "demo", "--data", "mine:f"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "Received: 3 values from 'mine:f'" in process.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]


def test_a_module_of_the_users_named_tuning_is_said(tmp_path, monkeypatch, capfd):
    """It is never imported: this package is found first. A folder without __init__ is none."""
    for folder in ("file", "package/tuning", "folder/tuning"):
        (tmp_path / folder).mkdir(parents=True)
    others = [tmp_path / "file" / "tuning.py", tmp_path / "package" / "tuning" / "__init__.py"]
    for path in others:
        path.write_text("")
    own = Path(cli.__file__).parents[1]
    folders = [tmp_path / name for name in ("file", "package", "folder")]
    monkeypatch.setattr("sys.path", [str(own), *map(str, folders)])
    assert cli.other_modules() == others
    replaced(monkeypatch, lambda: 0)
    monkeypatch.setattr("sys.argv", ["keras-se", "x"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capfd.readouterr().err
    for path in others:
        assert f"Warning: {path} has the name of this package, tuning" in printed


def replaced(monkeypatch, function):
    monkeypatch.setattr(
        "keras_se.cli.commands.COMMANDS", {"x": click.Command("x", callback=function)}
    )


@pytest.mark.parametrize("code", [0, 1])
def test_the_code_of_a_command_is_the_exit_code(monkeypatch, code):
    replaced(monkeypatch, lambda: code)
    monkeypatch.setattr("sys.argv", ["keras-se", "x"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == code


def test_an_interrupt_is_130(monkeypatch, capfd):
    def interrupted():
        raise KeyboardInterrupt

    replaced(monkeypatch, interrupted)
    monkeypatch.setattr("sys.argv", ["keras-se", "x"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 130
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_ours_is_3_and_shows_where(monkeypatch, capfd):
    def faulty():
        raise ZeroDivisionError("a fault")

    replaced(monkeypatch, faulty)
    monkeypatch.setattr("sys.argv", ["keras-se", "x"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 3
    printed = capfd.readouterr().err
    assert "ZeroDivisionError: a fault" in printed
    assert "fault of keras-se; please report it" in printed


def test_without_the_extras_it_names_them(monkeypatch, capfd):
    def missing(arguments):
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(cli, "_run", missing)
    monkeypatch.setattr("sys.argv", ["keras-se", "--help"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 2
    assert "`tensorflow`, which is not installed. Install it with: pip install" in (
        capfd.readouterr().err
    )
