"""The project of keras-tuner in the folder of a search: read, or set aside and made anew."""

import copy
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_se.errors import reason, warn
from keras_se.files import free_name, replacement
from tuning.running.tuner import FOLDER, SearchTuner
from tuning.trials.records import FRESH, Records, SearchWarning, TrialRecord, run_key
from tuning.trials.training import weights_path


def open_tuner(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    """Opens the tuner of a folder, or starts anew from the records if its files are damaged."""
    kept = folder / FOLDER
    if os.path.lexists(kept):
        try:
            _rehearse(oracle, kept, *arguments)
        except Exception as error:  # keras-tuner raises many types for damaged files
            with tempfile.TemporaryDirectory(prefix="keras-se-") as scratch:
                # Raises if the fault is the oracle's own, or that of the disk.
                _opened(oracle, Path(scratch), *arguments).rehearse()
            aside = kept.rename(free_name(kept))
            warn(
                "keras-tuner must be able to read its folder, so the search makes a new one from "
                f"the records. Received: {kept}: {type(error).__name__}: {reason(error)}; the "
                f"old one is now {aside.name}",
                SearchWarning,
            )
    return _opened(oracle, folder, *arguments)


def _rehearse(oracle: Any, kept: Path, *arguments: Any) -> None:
    """Raises if a search could not go on with the files: reads and uses a copy of them."""
    # Without this file keras-tuner would start anew among the old trials.
    if not (kept / "tuner0.json").is_file():
        raise ValueError("it was never completed")
    with tempfile.TemporaryDirectory(prefix="keras-se-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ignored = shutil.ignore_patterns("*.h5")
        shutil.copytree(kept, Path(scratch, FOLDER), ignore=ignored)
        tuner = _opened(oracle, Path(scratch), *arguments)
        _check_alike(tuner.oracle.get_state(), oracle.get_state(), "oracle.json")
        _check_trials(tuner.oracle)
        tuner.rehearse()


def _check_alike(found: Any, fresh: Any, where: str) -> None:
    """Raises if a part of a state has another type than in the state of a new oracle."""
    if isinstance(fresh, Mapping):
        for name, part in fresh.items():
            _check_alike(found[name], part, f"{where}: {name}")
        return
    number = (int, float, type(None))
    kinds = number if isinstance(fresh, number) else (type(fresh),)
    if not isinstance(found, kinds) and fresh is not None:
        raise TypeError(f"{where} is {type(found).__name__}")


def _check_trials(oracle: Any) -> None:
    known = {*oracle.start_order, *oracle.end_order} - set(oracle.trials)
    if known:
        raise ValueError(f"no trial.json of {', '.join(sorted(map(str, known)))}")
    for trial in oracle.trials.values():
        hp = trial.hyperparameters
        names = [parameter.name for parameter in hp.space]
        for parameter in hp.space:
            name = parameter.name
            # keras-tuner drops the value of a name that is declared under several conditions.
            if hp.is_active(parameter) and (name in hp.values or names.count(name) == 1):
                parameter.value_to_prob(hp.values[name])  # raises for what is no value of it


def _opened(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    # A copy: reloading a damaged folder may leave the oracle half changed.
    tuner = SearchTuner(copy.deepcopy(oracle), folder, *arguments)
    tuner.oracle.hyperparameters = oracle.get_space()  # not the old space from the file
    return tuner


def write_checkpoints(tuner: SearchTuner, folder: Path, records: Records[TrialRecord]) -> None:
    """Puts the weights that a search kept where `keras_tuner.Tuner.get_best_models` finds them."""
    best: dict[str, Path] = {}
    # As `SearchResult.model`: the first of the fresh seeds, which had no part in the choice.
    for record in sorted(records, key=lambda record: (record.seed < FRESH, record.seed)):
        path = weights_path(folder, run_key(record.candidate, record.seed))
        if path.exists():
            best.setdefault(record.candidate, path)
    for trial in tuner.oracle.trials.values():
        candidate = tuner.candidate(trial.hyperparameters.values).id
        target = Path(tuner.get_trial_dir(trial.trial_id), "checkpoint.weights.h5")
        if candidate not in best:
            target.unlink(missing_ok=True)  # of an earlier run, whose weights were not kept
            continue
        if target.exists() and target.samefile(best[candidate]):
            continue  # a link to a file does not replace another link to it
        with replacement(target) as temporary:
            try:
                os.link(best[candidate], temporary)
            except OSError:  # not every file system has links
                shutil.copyfile(best[candidate], temporary)
