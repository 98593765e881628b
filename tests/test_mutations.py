"""Two hundred of the mutated files of `benchmarks/mutations.py`; the script itself reads 2,000."""

import importlib.util
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mutations.py"


@pytest.fixture(scope="module")
def mutations():
    spec = importlib.util.spec_from_file_location("mutations", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def originals(mutations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    mutations.make_originals(folder)
    return folder


def test_whole_files_are_read(mutations, originals, tmp_path, capsys):
    """Or each would be refused, whatever its mutation."""
    for name, (_, read) in mutations.KINDS.items():
        assert read(mutations.copied(originals, tmp_path / name)) == 0, name
        capsys.readouterr()


@pytest.mark.parametrize(("which", "number"), [("QUICK", 180), ("SLOW", 20)])
def test_mutated_files_are_read_or_refused(mutations, originals, which, number):
    kinds = getattr(mutations, which)
    outcomes = [mutations.read_one(originals, n, kinds) for n in range(number)]
    faults = {n: found for n, found in enumerate(outcomes) if found[2] not in (0, 1, 2)}
    assert faults == {}
    assert sum(found[2] == 2 for found in outcomes) > number / 4


def test_a_fault_is_counted(mutations, originals, monkeypatch):
    def fault(folder):
        raise KeyError("seed")

    def silent(folder):
        return 2

    for read, message in ((fault, "KeyError: 'seed'"), (silent, "no sentence: ''")):
        monkeypatch.setitem(mutations.KINDS, "job", ("job.toml", read))
        assert mutations.read_one(originals, 0, ["job"])[2] == message
