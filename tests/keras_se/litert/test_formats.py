"""The table of formats, and the settings of a conversion."""

import typing

import pytest

from keras_se.errors import InputError
from keras_se.litert.formats import FORMATS, FormatName, IOType, Options


def test_the_types_for_signatures_are_those_of_the_table():
    assert typing.get_args(FormatName) == tuple(FORMATS)
    io_types = {name for spec in FORMATS.values() for name in spec.io_types}
    assert set(typing.get_args(IOType)) == io_types


def test_types_of_inputs_and_outputs_have_defaults():
    assert Options().io_types == ("int8", "int8")
    assert Options(format="int16x8", output_type="float32").io_types == ("int16", "float32")
    assert Options(format="float16").io_types == ("float32", "float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "int4"}, r"one of \['float32', .* 'int16x8'\]\. Received: format='int4'"),
        ({"format": ["int8"]}, r"format must be one of .* Received: format=\['int8'\]"),
        ({"format": None}, "format must be one of .* Received: format=None"),
        ({"input_type": "int4"}, r"input_type must be one of .* Received: input_type='int4'"),
        ({"input_type": ["int8"]}, r"input_type must be one of .* Received: input_type=\['int8'\]"),
        (
            {"format": "float16", "output_type": "int8"},
            r"output_type must be one of \['float32'\] for format='float16'\. Received: .*'int8'",
        ),
        ({"keep_float": "se_1"}, r"must be a list of SE sites.* Received: keep_float='se_1'"),
        (
            {"format": "float32", "keep_float": ["se_1"]},
            r"format 'int8' or 'int16x8'\. Received: keep_float=\['se_1'\] for format='float32'",
        ),
    ],
)
def test_refused_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        Options(**arguments)
