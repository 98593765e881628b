import pytest

from keras_se.errors import InputError
from keras_se.files import output_folder, refuse_existing, write_file


def test_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "run"
    with output_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["run"]


def test_existing_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("old")
    with (
        pytest.raises(
            InputError, match=r"must not exist yet; with overwrite it is renamed aside\. Rec"
        ),
        output_folder(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_overwrite_renames_aside_and_loses_nothing(tmp_path):
    for text in ("first", "second", "third"):
        with output_folder(tmp_path / "run", overwrite=True) as folder:
            (folder / "a").write_text(text)
    kept = {path.name: (path / "a").read_text() for path in tmp_path.iterdir()}
    assert kept == {"run": "third", "run.1": "first", "run.2": "second"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_of_a_failure(tmp_path, error):
    with output_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("old")

    def fail():
        with output_folder(tmp_path / "run", overwrite=True) as folder:
            (folder / "a").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "a").read_text() == "old"


def test_file_is_refused_or_set_aside(tmp_path):
    path = tmp_path / "deep" / "a"
    write_file(path, b"1")
    with pytest.raises(InputError, match="must not exist yet"):
        write_file(path, b"2")
    assert path.read_bytes() == b"1"
    assert write_file(path, b"3", overwrite=True) == path.with_name("a.1")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"a": b"3", "a.1": b"1"}


def test_no_half_written_file(tmp_path, monkeypatch):
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "a", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_dangling_link_is_an_existing_output(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="must not exist yet"):
        refuse_existing(tmp_path / "a", overwrite=False)


@pytest.mark.parametrize("name", [".", "..", "sub/.."])
def test_the_working_directory_is_never_set_aside(tmp_path, monkeypatch, name):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="must not be the working directory or one above it"):
        refuse_existing(name, overwrite=True)


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="must be the name of a file"):
        write_file(tmp_path / "a", b"1", overwrite=True)
    assert (tmp_path / "a").is_dir()
