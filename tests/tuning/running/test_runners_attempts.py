import pytest

from tuning.running.runners import MAX_ATTEMPTS, Attempts

GIVEN_UP = (
    f"{MAX_ATTEMPTS} attempts ended without a record; "
    "remove this one and attempts/k-s0-* to try again"
)


@pytest.fixture
def attempts(tmp_path):
    return Attempts(tmp_path / "attempts")


def names(attempts):
    return sorted(path.name for path in attempts.folder.iterdir())


def test_the_folder_is_made_once(tmp_path):
    Attempts(tmp_path / "a").begin("k-s0")
    assert len(Attempts(tmp_path / "a").of("k-s0")) == 1


def test_attempts_are_noted_in_order(attempts):
    paths = [attempts.begin("k-s0") for _ in range(3)]
    assert attempts.of("k-s0") == paths
    assert names(attempts) == ["k-s0-1.log", "k-s0-2.log", "k-s0-3.log"]
    assert paths[0].read_text().startswith("begun 20")


def test_keys_that_begin_alike(attempts):
    for key in ("k-s1", "k-s10", "k-s11", "kk-s1"):
        attempts.begin(key)
    assert [path.name for path in attempts.of("k-s1")] == ["k-s1-1.log"]
    attempts.forget("k-s1")
    assert names(attempts) == ["k-s10-1.log", "k-s11-1.log", "kk-s1-1.log"]


def test_forgotten_attempts_do_not_count(attempts):
    for _ in range(MAX_ATTEMPTS):
        attempts.begin("k-s0")
    assert attempts.exhausted("k-s0") is not None
    attempts.forget("k-s0")
    attempts.forget("k-s0")
    assert attempts.exhausted("k-s0") is None
    assert attempts.begin("k-s0").name == "k-s0-1.log"


def test_the_attempts_are_counted(attempts):
    for number in range(MAX_ATTEMPTS):
        assert attempts.exhausted("k-s0") is None, number
        attempts.begin("k-s0")
    assert attempts.exhausted("k-s0") == GIVEN_UP
    assert attempts.exhausted("k-s1") is None


def test_what_the_last_one_wrote(attempts):
    for number in range(MAX_ATTEMPTS):
        with attempts.begin("k-s0").open("ab") as log:
            log.write(f"first of {number}\n".encode() + b"bad \xff byte\n\nlast")
    wrote = f"first of {MAX_ATTEMPTS - 1} | bad \ufffd byte |  | last"
    assert attempts.exhausted("k-s0") == f"{GIVEN_UP}; the last one wrote: {wrote}"


def test_only_its_last_lines(attempts):
    for _ in range(MAX_ATTEMPTS):
        path = attempts.begin("k-s0")
    with path.open("a") as log:
        log.writelines(f"line {n}\n" for n in range(100))
    said = attempts.exhausted("k-s0").partition("wrote: ")[2].split(" | ")
    assert said == [f"line {n}" for n in range(80, 100)]
