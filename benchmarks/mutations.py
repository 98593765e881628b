"""Reads mutated files of every kind, and says how many ended in anything but a sentence.

A file is read as the command line reads it. It may be read (0), judged (1) or refused with a
sentence (2); a traceback, a crash, a hang and memory without bounds are faults. The files are read
in a child process that this one watches, so that each fault counts once and the rest goes on:

    python benchmarks/mutations.py --files 2000

Mutations: flipped bits, zeroed, swapped, repeated and missing blocks, truncation; JSON and TOML
values that are replaced, removed or nested deep; archives that unpack to GiB, state other sizes, or
hold pickles, HDF5 weights without data; named pipes, folders, devices and links in the place of a
file.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS, GIB = 90, 2**30  # of a file, until it counts as a hang
_ODD = (
    *(None, True, -1, 0, 1.5, 1e308, -1e-308, 2**31, 2**63, 10**30, "", "x", "\0", "\ud800"),
    *("$\\frac{$", "../../etc/passwd", "/dev/zero", "<b>", [], {}, [[]], {"float": "inf"}),
    *("NaN", [1] * 1000, {"a": {"b": [None]}}, "keras>Dense", {"class_name": "Lambda"}),
)


def make_originals(folder: Path) -> None:
    """Writes one whole file of each kind."""
    import keras
    import numpy as np

    import keras_se
    from keras_se.litert import probe, recorder
    from keras_se.litert.runtime import predict

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=3.0)}  # gates that vary
    y = keras_se.SEBlock(2, **wide)(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    y = keras_se.SEBlock(2, **wide)(keras.layers.Conv2D(8, 3)(y))
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(inputs, keras.layers.Dense(3)(y))
    model.save(folder / "se.keras")
    keras_se.remove(model).save(folder / "plain.keras")
    x = np.random.default_rng(0).random((140, 8, 8, 3), "float32")
    np.savez(folder / "data.npz", x=x[:40], y=np.arange(40) % 3)
    keras_se.to_tflite(model, "int8", x[40:], path=folder / "se.tflite", check_range=False)
    keras_se.to_tflite(model, "float32", path=folder / "float.tflite")
    twin = probe(folder / "se.tflite")
    np.savez(folder / "gates.npz", **recorder.record(twin, {"x": x[:40]}))
    predict(folder / "se.tflite", x[:1])
    plan = {site.name: {"ratio": 2} for site in keras_se.candidates(keras_se.remove(model))}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "space.json").write_text(json.dumps({"ratios": [2, 4], "gates": ["sigmoid"]}))
    job = (
        "model = 'm:build'\ndata = 'data.npz'\nepochs = 2\ndirectory = 'run'\n[fit]\nshuffle = true"
    )
    (folder / "job.toml").write_text(job)
    make_search(folder / "search")


def make_search(folder: Path) -> None:
    """Writes the folder of a search."""
    from tuning import Cheapest, ScoreTable, SearchResult, TrialRecord
    from tuning.trials.records import Records, run_key

    (folder / "curves").mkdir(parents=True)
    records, found = Records(folder / "records", TrialRecord), []
    for ratio in (2, 4):
        for seed in range(3):
            score, key = 0.5 + 0.01 * seed + 0.1 / ratio, f"r{ratio}"
            values = {"se_ratio": ratio, "se_gate": "sigmoid"}
            one = TrialRecord(
                *(key, f"ratio={ratio}", values, seed, "completed", score, 2, {"loss": score}),
                parameters=900 - ratio,
                complexity=64 / ratio,
                curve=f"curves/{run_key(key, seed)}.jsonl",
            )
            records.put(one)
            found.append(one)
            lines = [{"epoch": n, "score": score + 1 / n} for n in (1, 2)]
            (folder / one.curve).write_text("\n".join(map(json.dumps, lines)))
    rows = [[r.score for r in found[n : n + 3]] for n in (0, 3)]
    table = ScoreTable(("ratio=2", "ratio=4"), rows, (898, 896), (32.0, 16.0))
    decision = Cheapest(0.1).choose(table)
    job = {"objective": "cheapest:0.1:val_loss", "metric": "val_loss", "direction": "min"}
    result = SearchResult(
        **job,
        epochs=2,
        seeds=(0, 1, 2),
        records=tuple(found),
        chosen=decision.chosen,
        values=found[0].values,
        plan={"se_1": {"ratio": 2}},
        placement="standard",
        decision=decision,
        sentence=decision.sentence,
    )
    (folder / "result.json").write_text(result.to_json())
    (folder / "job.toml").write_text(
        "objective = 'cheapest:0.1:val_loss'\nepochs = 2\nseeds = [0, 1, 2]"
    )
    (folder / "begun.log").write_text("r2-s0\nr2-s0\nr4-s1\n")
    (folder / "fingerprint.json").write_text('{"fingerprint": {"threads": 1}, "accepted": []}')


# How each kind of file is read: its place in the folder, and the reader.


def command(*words: object) -> int:
    """The exit code of a command line."""
    from tuning.cli import run

    return run([*map(str, words)])


def function(read: Callable[[], object]) -> int:
    """The exit code that a command would have after this."""
    from keras_se.errors import InputError

    try:
        read()
    except InputError as error:
        print(error)
        return 2
    return 0


def report(folder: Path, *without: str) -> int:
    """The exit code of `report`, after files that it prefers are gone."""
    search = folder / "search"
    for name in without:
        (search / name).unlink(missing_ok=True)
    outputs = ["--html", folder / "r.html", "--csv", folder / "r.csv", "--json", folder / "r.json"]
    return command("report", search, *outputs, "--overwrite")


def resumed(folder: Path) -> int:
    """The exit code of reading a folder as a search does that goes on."""
    from tuning.folder.begun import Begun
    from tuning.folder.search_folder import folder_errors, stored_threads
    from tuning.trials.records import Records, TrialRecord

    def read() -> None:
        with folder_errors(folder / "search"):
            stored_threads(folder / "search")
            begun = Begun(
                folder / "search" / "begun.log",
                list(Records(folder / "search/records", TrialRecord)),
            )
            begun.excuse(["r2-s0"])

    return function(read)


def recorded(folder: Path) -> int:
    """The exit code of gates that were recorded on a device."""
    from keras_se.litert.devices.recording import read_recording

    return function(lambda: read_recording(folder / "se.tflite", folder / "gates.npz"))


def recipe(folder: Path) -> int:
    """The exit code of a recipe."""
    from keras_se.litert.recipe import calibration_rows

    return function(lambda: calibration_rows(folder / "se.tflite", folder / "se.recipe.json"))


def job(folder: Path) -> int:
    """The exit code of a job, which is not run."""
    from tuning.commands.job_file import read_job

    return function(lambda: read_job(folder / "job.toml"))


def space(folder: Path) -> int:
    """The exit code of a space."""
    from tuning.commands.job_file import read_space

    return function(lambda: read_space(str(folder / "space.json")))


KINDS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "tflite": (
        "se.tflite",
        lambda f: command("gates", f / "se.tflite", "--data", f / "data.npz"),
    ),
    "float tflite": ("float.tflite", lambda f: command("gates", f / "float.tflite")),
    "verified tflite": (
        "se.tflite",
        lambda f: command("verify", f / "se.keras", f / "se.tflite", "--data", f / "data.npz"),
    ),
    "reference": (
        "float.tflite",
        lambda f: command("verify", f / "float.tflite", f / "se.tflite", "--data", f / "data.npz"),
    ),
    "keras": ("se.keras", lambda f: command("cost", f / "se.keras")),
    "npz": ("data.npz", lambda f: command("gates", f / "se.keras", "--data", f / "data.npz")),
    "gates": ("gates.npz", recorded),
    "recipe": ("se.recipe.json", recipe),
    "job": ("job.toml", job),
    "space": ("space.json", space),
    "plan": (
        "plan.json",
        lambda f: command(
            *("insert", f / "plain.keras", f / "o.keras", "--plan", f / "plan.json", "--overwrite")
        ),
    ),
    "result": ("search/result.json", report),
    "search's job": ("search/job.toml", lambda f: report(f, "result.json")),
    "record": ("search/records/r2-s1.json", lambda f: report(f, "result.json")),
    "record, resumed": ("search/records/r2-s1.json", resumed),
    "curve": ("search/curves/r2-s1.jsonl", report),
    "begun": ("search/begun.log", resumed),
    "fingerprint": ("search/fingerprint.json", resumed),
}
SLOW = ["tflite", "float tflite", "keras", "npz", "plan"]
SLOWEST = ["verified tflite", "reference"]
QUICK = [kind for kind in KINDS if kind not in (*SLOW, *SLOWEST)]


# Mutations: each takes a file, and leaves another one in its place.


def flip(path: Path, rng: random.Random) -> None:
    """Flips bits."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 30))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    """Cuts the end off."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def blocks(path: Path, rng: random.Random) -> None:
    """Swaps, zeroes, drops or repeats blocks."""
    content = path.read_bytes()
    size = rng.choice((1, 4, 16, 256))
    a, b = (rng.randrange(max(1, len(content) - size)) for _ in range(2))
    first, second = content[a : a + size], content[b : b + size]
    changed = bytearray(content)
    how = rng.randrange(4)
    if how == 0:
        changed[a : a + size], changed[b : b + size] = second, first
    elif how == 1:
        changed[a : a + size] = rng.choice((b"\0", b"\xff")) * len(first)
    elif how == 2:
        del changed[a : a + size]
    else:
        changed[b:b] = first * rng.choice((1, 1000))
    path.write_bytes(changed)


def place(path: Path, rng: random.Random) -> None:
    """Puts something else in the place of the file."""
    original = path.with_name(f"{path.name}.original")
    path.rename(original)
    how = rng.randrange(7)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how in (2, 3, 4):
        path.symlink_to((path, path.with_name("nowhere"), Path("/dev/zero"))[how - 2])
    elif how == 5:
        path.write_bytes(b"")
    else:
        with path.open("wb") as file:  # sparse
            file.write(original.read_bytes())
            file.truncate(64 * GIB)


def odd_values(content: Any, rng: random.Random) -> Any:
    """Replaces, removes or nests a value somewhere in plain values."""
    places = list(_places(content))
    if not places:
        return rng.choice(_ODD)
    where, key = rng.choice(places)
    how = rng.randrange(8)
    if how == 0:
        del where[key]
    elif how == 1 and isinstance(where, dict):
        where["more"] = where[key]
    elif how == 2:
        deep: Any = where[key]
        for _ in range(rng.choice((10, 90, 200))):
            deep = [deep]
        where[key] = deep
    elif how == 3 and isinstance(where[key], int | float):
        where[key] = where[key] * rng.choice((-1, 2, 1000, 1e6, 10**12))
    else:
        where[key] = rng.choice(_ODD)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, dict | list):
        keys = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield content, key
            yield from _places(content[key])


def values(path: Path, rng: random.Random) -> None:
    """Changes values in JSON or TOML text, in the metadata of a model too."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        config = odd_values(json.loads(parts["config.json"]), rng)
        rewrite(path, {**parts, "config.json": json.dumps(config).encode()})
        return
    if path.suffix == ".toml":
        import tomllib

        import tomli_w

        content = odd_values(tomllib.loads(path.read_text()), rng)
        try:
            path.write_text(tomli_w.dumps(content))
        except (TypeError, ValueError, AttributeError):  # TOML has no null
            path.write_text(f"epochs = {'[' * 5000}")
        return
    text = path.read_text()
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        path.write_text("\n".join(json.dumps(odd_values(line, rng)) for line in lines))
    elif rng.random() < 0.05:
        path.write_text(rng.choice(("[" * 100_000, '{"a":' * 5000, "9" * 5000, "[1," * 10_000)))
    else:
        path.write_text(json.dumps(odd_values(json.loads(text), rng)))


def rewrite(path: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Writes an archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def archives(path: Path, rng: random.Random) -> None:
    """Makes an archive that states or holds too much."""
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(parts))
    how = rng.randrange(8)
    if how == 0:  # 3 GiB in 3 MB; a flushed block of deflated zeros may be repeated
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = packer.compress(bytes(GIB // 64)) + packer.flush(zlib.Z_FULL_FLUSH)
        rewrite(path, {**parts, name: block * 192 + b"\3\0"})
        with zipfile.ZipFile(path, "a") as archive:
            archive.getinfo(name).compress_type = zipfile.ZIP_DEFLATED
            archive.getinfo(name).file_size = 3 * GIB
            archive.writestr("x", b"")  # or the list would not be written again
    elif how == 1:  # the size that the archive states
        with zipfile.ZipFile(path, "w") as archive:
            for each, part in parts.items():
                archive.writestr(each, part)
            archive.filelist[0].file_size = rng.choice((0, 10, 2**31, 2**40))
            archive.filelist[0].compress_size = rng.choice((0, 10, 2**31))
    elif how == 2:
        rewrite(path, parts, rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    elif how == 3:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(name, b"")
    elif how == 4:
        rewrite(path, {f"{n}{name}": b"" for n in range(rng.choice((0, 1, 1000)))})
    elif path.suffix == ".npz":
        rewrite(path, {**parts, name: _odd_array(np, parts[name], how, rng)})
    else:
        rewrite(path, {**parts, "model.weights.h5": _odd_weights(parts["model.weights.h5"], rng)})


def _odd_array(np: Any, member: bytes, how: int, rng: random.Random) -> bytes:
    if how == 5:
        stream = io.BytesIO()
        np.save(stream, np.array([{}, print], object), allow_pickle=True)
        return stream.getvalue()
    header = member[:128]
    shape = header[header.index(b"'shape'") :].partition(b"(")[2].partition(b")")[0]
    new = rng.choice((b"99999999999999", b"-1, 3", b"2**9,", b"0, 999999999", b"()" * 9))
    changed = header.replace(b"(" + shape + b")", b"(" + new + b")")
    if how == 7:
        descr = rng.choice((b"'|S0'", b"'|V2147483647'", b"'<c16'", b"'|O'", b"'<M8[s]'", b"(1,)"))
        changed = header.replace(b"'<f4'", descr).replace(b"'<i8'", descr)
    return changed[:127].rstrip(b"\n").ljust(127) + b"\n" + member[128:]


def _odd_weights(member: bytes, rng: random.Random) -> bytes:
    import h5py

    stream = io.BytesIO(member)
    with h5py.File(stream, "a") as store:
        found: list[str] = []
        store.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        name = rng.choice(found)
        del store[name]
        how = rng.randrange(5)
        if how == 0:  # no data, all zeros
            store.create_dataset(name, (2**20, 2**20), "f4", chunks=True, compression="gzip")
        elif how == 1:
            store[name] = h5py.ExternalLink("/etc/passwd", "/")
        elif how == 2:
            store[name] = h5py.SoftLink("/")
        elif how == 3:
            store[name] = ["text"]
        else:
            store.create_dataset(name, (3,), "f4", external=[("/etc/passwd", 0, 12)])
    return stream.getvalue()


def inside(path: Path, rng: random.Random) -> None:
    """Flips bits or swaps blocks in a member of an archive, whose check sum is right again."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(parts))
    member = path.with_name("member")
    member.write_bytes(parts[name])
    rng.choice((flip, blocks))(member, rng)
    rewrite(path, {**parts, name: member.read_bytes()})


def mutate(path: Path, rng: random.Random) -> str:
    """Mutates a file in a way that fits it; returns the name of the way."""
    ways = [flip, truncate, blocks, blocks, place]
    if path.suffix in (".keras", ".npz"):
        ways += [archives, inside] * 3
    if path.suffix in (".json", ".jsonl", ".toml", ".keras"):
        ways += [values] * 6
    way = rng.choice(ways)
    way(path, rng)
    return way.__name__


def copied(originals: Path, folder: Path) -> Path:
    """Returns a copy of the files, to be changed."""
    shutil.copytree(originals, folder)
    return folder


def read_one(originals: Path, number: int, kinds: list[str]) -> tuple[str, str, Any, float]:
    """Mutates and reads a file; returns its kind, the mutation, the code or the fault, seconds."""
    rng, kind = random.Random(number), kinds[number % len(kinds)]
    name, read = KINDS[kind]
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(originals, Path(temporary, "work"))
        way = mutate(folder / name, rng)
        said, began = io.StringIO(), time.monotonic()
        try:
            with (
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                code: Any = read(folder)
        except Exception as error:
            code = f"{type(error).__name__}: {str(error)[:200]}"
        took = time.monotonic() - began
        if code == 2 and "Received: " not in said.getvalue():
            code = f"no sentence: {said.getvalue()[-200:]!r}"
        return kind, way, f"exit {code}" if isinstance(code, int) and code > 2 else code, took


def child(originals: Path, numbers: range) -> None:
    """Reads files, with a line before and after each."""
    import resource

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["COLUMNS"] = "100"
    for number in numbers:
        print(json.dumps(["start", number]), flush=True)
        kind, way, found, took = read_one(originals, number, list(KINDS))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(["end", number, kind, way, found, took, peak]), flush=True)


def watched(originals: Path, first: int, end: int) -> Iterator[list[Any]]:
    """Yields the outcome of each file, in as many children as it takes."""
    import selectors

    while first < end:
        words = [sys.executable, __file__, "--child", str(originals), str(first), str(end)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None  # noqa: S101
            selector = selectors.DefaultSelector()
            selector.register(process.stdout, selectors.EVENT_READ)
            why = "hang"
            while selector.select(SECONDS):
                line = process.stdout.readline()
                if not line:
                    why = f"crash: exit {process.wait()}"
                    break
                what, number, *outcome = json.loads(line)
                first = number + (what == "end")
                if what == "end":
                    yield [number, *outcome]
            process.kill()
        if first < end:
            kind = list(KINDS)[first % len(KINDS)]
            yield [first, kind, "?", why, SECONDS, 0]
            first += 1


def main() -> None:
    """Prints the faults, and a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="Number of the first file.")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), range(*map(int, arguments.child[1:])))
        return
    codes: dict[str, Counter[Any]] = {}
    slowest, peak, faults = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        make_originals(Path(name))
        for number, kind, way, found, took, memory in watched(
            Path(name), arguments.first, arguments.first + arguments.files
        ):
            codes.setdefault(kind, Counter())[found if isinstance(found, int) else "fault"] += 1
            slowest, peak = max(slowest, took), max(peak, memory)
            if not isinstance(found, int):
                faults += 1
                print(f"{number} {kind}, {way}: {found}", flush=True)
    print(f"\n{'kind':20}{'read':>6}{'judged':>8}{'refused':>9}{'faults':>8}")
    for kind, counted in codes.items():
        numbers = (counted[0], counted[1], counted[2], counted["fault"])
        print(f"{kind:20}{numbers[0]:6}{numbers[1]:8}{numbers[2]:9}{numbers[3]:8}")
    print(f"{arguments.files} files, {faults} faults; the slowest took {slowest:.1f} s; ", end="")
    print(f"at most {peak:.2f} GiB of memory, Keras and TensorFlow included")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
