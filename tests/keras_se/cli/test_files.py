import keras
import pytest

import keras_se
from keras_se.cli.files import check_output
from keras_se.errors import InputError


def test_overwrite_renames_the_old_file(tmp_path, keras_se_command, capsys):
    out = tmp_path / "a.keras"
    out.write_text("old")
    assert keras_se_command("insert plain.keras", out, "--overwrite") == 0
    assert f"The old {out} is now {out}.1\n" in capsys.readouterr().out
    assert (tmp_path / "a.keras.1").read_text() == "old"
    assert len(keras_se.find_sites(keras.saving.load_model(out))) == 1


def test_an_output_must_be_the_name_of_a_file(tmp_path):
    with pytest.raises(InputError, match="must be the name of a file"):
        check_output(str(tmp_path), overwrite=True)
