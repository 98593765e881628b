"""What is built for others to install: the archive of the source, and the wheel made from it."""

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import keras_se

ROOT = Path(__file__).parents[1]
RELEASE = r"^## (\d+\.\d+\.\d+), (\d{4}-\d\d-\d\d)$"


def build(builder, root, folder):
    return Path(next(iter(builder(str(root)).build(directory=str(folder)))))


def sources(*folders):
    """The files of folders, without what Python and tools write beside them."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in files}
    return {name for name in names if not re.search(r"(^|/)(__pycache__|\.\w+|runs)/", name)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The unpacked archive of the source."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(build(SdistBuilder, ROOT, folder)) as file:
        file.extractall(folder, filter="data")
    return folder / f"keras_se-{keras_se.__version__}"


@pytest.fixture(scope="module")
def wheel(archive, tmp_path_factory):
    """Names of the files in the wheel that the archive makes, with their content."""
    with zipfile.ZipFile(build(WheelBuilder, archive, tmp_path_factory.mktemp("wheel"))) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_is_the_two_packages(wheel):
    code = {name: content for name, content in wheel.items() if ".dist-info/" not in name}
    assert {"keras_se/py.typed", "tuning/py.typed", "tuning/report/page.html"} <= set(code)
    assert set(code) == sources("keras_se", "tuning")
    assert all((ROOT / name).read_bytes() == content for name, content in code.items())


def test_the_archive_is_enough_to_test_and_to_cite(archive):
    files = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    assert sources("keras_se", "tuning", "tests", "examples", "benchmarks", "docs") <= files
    for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG"):
        assert f"{name}.md" in files
    assert {"CITATION.cff", "LICENSE", "pyproject.toml"} <= files


def test_the_metadata(wheel):
    (name,) = (name for name in wheel if name.endswith("/METADATA"))
    lines = wheel[name].decode().split("\n\n")[0].splitlines()
    assert f"Version: {keras_se.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    pythons = [line.rpartition(" ")[2] for line in lines if "Python :: 3." in line]
    assert f"Requires-Python: >={pythons[0]}" in lines
    script = wheel[name.replace("METADATA", "entry_points.txt")].decode()
    assert "keras-se = tuning.cli:main" in script


def test_version_and_date_are_said_once_each():
    version, date = re.search(RELEASE, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert keras_se.__version__ == version == str(citation["version"])
    assert str(citation["date-released"]) == date
    assert citation["license"] == project["license"]


def test_the_citation_has_what_the_format_asks_for():
    """The fields that schema 1.2.0 requires, of the software and of the paper."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "doi"} <= set(paper)
