"""What is read of files that others wrote, and what is said of the rest."""

import io
import json
import os
import struct
import zipfile

import h5py
import numpy as np
import pytest

from keras_se.untrusted import (
    check_archive,
    check_arrays,
    check_weights,
    parse_json,
    read_file,
    read_json,
    read_toml,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def archive_of(path, parts, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def test_a_file_is_read_up_to_its_limit(path):
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(ValueError, match="it has more than 4 bytes"):
        read_file(path, 4)


def test_a_sparse_file_is_refused_unread(path):
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        read_file(path, 1000)


def test_a_file_whose_size_is_not_stated():
    assert read_file("/proc/self/status", 2**20)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_file("/proc/self/status", 10)


def test_what_is_no_ordinary_file(path):
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read_file(path.parent, 1)
    os.mkfifo(path)
    for other in (path, "/dev/zero"):
        with pytest.raises(ValueError, match="it is not an ordinary file"):
            read_file(other, 1)
    (path.parent / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="Too many levels"):
        read_file(path.parent / "circle", 1)


def test_json_and_toml(path):
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\\ud83d\\ude00"]}')
    assert read_json(path, 100) == {"a": [1, 2.5, None, "\U0001f600"]}
    path.write_bytes(b"a = [1, 2.5]")
    assert read_toml(path, 100) == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "it is nested too deep"),
        ("[" * 101 + "]" * 101, "it is nested more than 100 deep"),
        (json.dumps({"a": 2**63}), "more than 64 bits"),
        (json.dumps({"a": -(2**63) - 1}), "more than 64 bits"),
        ("9" * 5000, "integer string conversion"),
        (json.dumps({"\ud800": 1}), "surrogates not allowed"),
        (bytes(100), "Expecting value"),
        (b"\xff", "can't decode byte 0xff"),
    ],
)
def test_json_that_nothing_else_could_hold(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_toml_that_nothing_else_could_hold(path):
    for text, message in (("a=" + "[" * 9999, "nested too deep"), (f"a={2**63}", "64 bits")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_toml(path, 2**20)


def test_an_archive_may_unpack_to_a_hundred_times_its_size(path):
    archive_of(path, {"a": bytes(2**25)}, zipfile.ZIP_DEFLATED)
    check_archive(path)  # a thousand times, but small
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a", "w") as file,
    ):
        for _ in range(65):
            file.write(bytes(2**24))
    with pytest.raises(ValueError, match=r"unpacks to 1,090,519,040 bytes, and 1,073,741,824 are"):
        check_archive(path)


def test_archives_that_no_library_here_writes(path):
    archive_of(path, {"a": b"1"}, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match=r"'a' is encrypted or of an unusual compression"):
        check_archive(path)
    archive_of(path, {"a": b"1"})
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr("a", b"2")
    with pytest.raises(ValueError, match="two of its members have one name"):
        check_archive(path)


def test_a_list_of_members_is_bounded_before_it_is_read(path):
    with path.open("wb") as file:
        file.truncate(2**25)
        file.seek(0, 2)
        file.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 2**25, 0, 0))
    with pytest.raises(ValueError, match="its list of members is too long"):
        check_archive(path)


def npy(header, data=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
            r"'x.npy' states 4,000,000,000,000 bytes of numbers and holds 0",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}", b"1234"), "states 4"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "holds pickled objects"),
        (b"\x93NUMPY\x03\x00", r"is of the format \(3, 0\)"),
        (b"text", "magic string"),
    ],
)
def test_arrays_are_as_large_as_they_say(path, member, message):
    archive_of(path, {"x.npy": member})
    with pytest.raises(ValueError, match=message):
        check_arrays(path)


def test_arrays_of_numpy_pass(path):
    arrays = {"a": np.ones((3, 2)), "b": np.float32(1), "c": np.zeros((0, 5)), "d": np.array(["x"])}
    for save in (np.savez, np.savez_compressed):
        with path.open("wb") as file:
            save(file, f=np.asfortranarray(np.eye(3)), **arrays)
        check_arrays(path)


def weights(path, fill):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as store:
        fill(store)
    archive_of(path, {"w.h5": stream.getvalue()})
    check_weights(path, "w.h5")


def test_weights_are_no_larger_than_their_file(path):
    weights(path, lambda store: store.create_dataset("a/b/0", data=np.ones(3)))
    with pytest.raises(ValueError, match=r"its weights have more than 1,073,741,824 bytes"):
        weights(path, lambda store: store.create_dataset("a/0", (2**14, 2**15), chunks=True))
    with pytest.raises(ValueError, match=r"'0' refers to other files"):
        weights(path, lambda s: s.create_dataset("0", (3,), external=[("/etc/passwd", 0, 12)]))
