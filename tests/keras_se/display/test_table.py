import pytest

from keras_se.display.table import Column, Table, names, without_path
from keras_se.display.text import rendered

LONG = "mobilenetv2_0.35_32"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["se_1", "se_2"], ("", ["se_1", "se_2"])),
        (["a/se_1", "a/se_2"], ("a", ["se_1", "se_2"])),
        (["a/b/se_1", "a/se_1"], ("a", ["b/se_1", "se_1"])),
        (["ab/se_1", "ac/se_1"], ("", ["ab/se_1", "ac/se_1"])),
        (["a/se_1", "se_1"], ("", ["a/se_1", "se_1"])),
        (["a/se_1"], ("", ["a/se_1"])),
        ([], ("", [])),
    ],
)
def test_the_path_that_all_sites_share(given, expected):
    assert without_path(given) == expected


def test_sites_of_a_nested_network_can_be_told_apart_in_80_columns():
    sites = [f"{LONG}/se_{n}" for n in range(1, 12)]
    words = Column("verdict", ["survives, though of many words that take room"] * 11, is_words=True)
    table = Table("Sites", [names("site", sites), words, Column("R²", ["0.999"] * 11)])
    lines = rendered([table]).splitlines()
    assert [line.split()[0] for line in lines if " survives" in line] == [
        f"se_{n}" for n in range(1, 12)
    ]
    assert f"All sites are in {LONG}." in lines[-1]
    assert f"{LONG}/se_11" in table.html()  # a page has room
