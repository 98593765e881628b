"""Accuracy and agreement on arrays, with intervals that cover as often as they say."""

import numpy as np
import pytest

from keras_se.verification.outcome import fewest_samples, outcome, takes_labels

RNG = np.random.default_rng(0)


def test_accuracy_and_its_paired_difference():
    labels = np.arange(100) % 4
    reference, file = np.eye(4)[labels], np.eye(4)[labels]
    reference[:6] = np.roll(reference[:6], 1, axis=1)  # 6 wrong
    file[4:14] = np.roll(file[4:14], 1, axis=1)  # 10 wrong, 2 of them in both
    found = outcome([reference], [file], np.roll(reference, 1, axis=1), labels)
    assert (found.metric, found.reference, found.file) == ("accuracy", 0.94, 0.9)
    assert found.difference == pytest.approx(-0.04)
    # Agresti and Min: 4 won and 8 lost of 100 pairs, half a pair added to each of four kinds.
    b, c, n = 4.5, 8.5, 102
    half = 1.96 * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.interval == pytest.approx(((b - c) / n - half, (b - c) / n + half))
    assert found.constant == pytest.approx(0.0, abs=0.06)
    assert found.constant_interval[1] < -0.8


def test_the_interval_covers():
    """Of 400 drawn pairs of classifiers, about 95 % of the intervals hold the true difference."""
    labels, hits = np.zeros(120, int), 0
    for _ in range(400):
        before = RNG.random(120) < 0.9
        after = np.where(RNG.random(120) < 0.1, RNG.random(120) < 0.8, before)
        true = 0.1 * (0.8 - 0.9)
        arrays = [np.stack([hit, ~hit], axis=1).astype(float) for hit in (before, after)]
        low, high = outcome([arrays[0]], [arrays[1]], None, labels).interval
        hits += low <= true <= high
    assert 0.92 < hits / 400 <= 1.0


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.002])
def test_the_fewest_samples_that_show_a_tolerance(tolerance):
    """The interval of outputs that are all the same is as wide with one sample less."""
    needed = fewest_samples(tolerance)
    reach = []
    for count in (needed - 1, needed):
        outputs = np.eye(3)[np.arange(count) % 3]
        reach.append(outcome([outputs], [outputs], None, np.arange(count) % 3).interval[0])
    assert reach[0] < -tolerance <= reach[1]
    assert fewest_samples(0.0) == 0


def test_agreement_and_outputs_that_are_no_classes():
    reference = RNG.normal(size=(50, 3))
    file = reference.copy()
    file[:5] = -file[:5]
    found = outcome([reference], [RNG.normal(size=(50, 2)), file], None, None)
    assert (found.metric, found.reference, found.file) == ("agreement", 1.0, 0.9)
    assert (found.difference, found.constant) == (None, None)
    maps = RNG.normal(size=(50, 4, 4, 2))
    found = outcome([maps], [maps + 0.5], None, None)
    assert (found.metric, found.file) == ("", None)
    assert found.error == pytest.approx(0.5 / np.sqrt(maps.var(axis=0).mean()))
    assert outcome([maps], [], None, None).error is None


def test_outputs_in_another_order_are_recognized():
    first, second = RNG.normal(size=(2, 40, 3))
    assert outcome([first], [second, first], None, None).error == 0.0
    assert outcome([first, second], [second, first], None, None).error == 0.0
    # A head that lost its sign is not taken for its twin.
    assert outcome([first, first], [-first, first], None, None).file < 0.9
    assert outcome([first, first], [-first, first], None, None).is_worse


def test_labels_that_fit():
    assert takes_labels((None, 3), np.array([0, 2]))
    assert takes_labels((None, 1), np.array([0, 1]))
    assert not takes_labels((None, 3), np.array([3]))
    assert not takes_labels((None, 4, 4, 3), np.array([0]))
    assert not takes_labels((None, None), np.array([0]))


def test_one_unit_is_decided_alike_with_all_gates():
    """Logits that constant gates keep between 0 and 1 are still logits."""
    logits = RNG.normal(size=(60, 1))
    labels = (logits[:, 0] > 0).astype(int)
    assert (
        outcome([logits], [logits], 0.2 + 0.1 * RNG.random((60, 1)), np.ones(60, int)).constant == 1
    )
    assert outcome([logits], [np.clip(logits, 0.0, 1.0)], None, labels).file == 1.0


def test_constant_outputs_have_no_spread_to_be_compared_with():
    ones = np.ones((40, 1))
    assert outcome([ones], [ones - 0.004], None, None).error is None
