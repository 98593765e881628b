"""Each claim is checked on numbers of its own: by counting, by simulation or by differentiation."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, theory
from keras_se.errors import InputError
from keras_se.layers import gates as gates_module


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def block(channels, **arguments):
    built = SEBlock(**arguments, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))
    built.build((None, 4, 4, channels))
    return built


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("channels", "ratio"), [(64, 16), (64, 1.5), (33, 1.1), (8, 16)])
def test_parameters_are_those_of_the_layer(channels, ratio, use_bias):
    counted = block(channels, ratio=ratio, use_bias=use_bias).count_params()
    assert theory.parameters(channels, ratio, use_bias=use_bias) == counted


def test_parameters_are_twice_c_squared_over_r():
    assert theory.parameters(256, 16) == 2 * 256**2 / 16


def test_parameters_of_the_papers_networks():
    """SE-ResNet-50 adds (2/r) Σ N·C² to 25.6M (arXiv 1709.01507v4, section 4, equation 5)."""
    stages = {256: 3, 512: 4, 1024: 6, 2048: 3}
    for ratio, millions in {2: 45.7, 4: 35.7, 8: 30.7, 16: 28.1, 32: 26.9}.items():
        added = sum(n * theory.parameters(c, ratio) for c, n in stages.items())
        assert 25.637 + added / 1e6 == pytest.approx(millions, abs=0.1)


def test_flops_are_those_that_a_block_performs():
    """Counted in a plain loop over a small block, one operation at a time."""
    c, h, w, r = 8, 3, 5, 2
    squeeze = sum(1 for _ in range(c) for _ in range(h * w))
    matrices = sum(2 for _ in range(2) for _ in range(c) for _ in range(c // r))
    scale = sum(1 for _ in range(c) for _ in range(h * w))
    assert theory.flops(c, h, w, r) == squeeze + matrices + scale


@pytest.mark.parametrize("size", [1, 4, 7, 14])
@pytest.mark.parametrize("ratio", [2, 16])
def test_excitation_dominates_from_half_of_the_cost_on(size, ratio):
    for channels in range(1, 2000, 7):
        total = theory.flops(channels, size, size, ratio)
        share = 4 * channels**2 / ratio / total
        assert theory.excitation_dominates(channels, size, ratio) == (share >= 0.5)


@pytest.mark.parametrize("power", [0.5, 2.0, 4.0])
def test_the_optimal_ratio_is_the_minimum_of_the_risk(power):
    for channels, penalty, kappa in [(64, 1e-4, 1e-3), (2048, 1e-7, 1e-5), (512, 1e-5, 1e-2)]:
        best = theory.optimal_ratio(channels, penalty, kappa, power)
        grid = best * np.geomspace(0.1, 10, 20_001)
        risk = theory.structural_risk(0.3 + kappa * grid**power / power, channels, grid, penalty)
        assert grid[risk.argmin()] == pytest.approx(best, rel=1e-3)


def test_the_optimal_ratio_is_a_cube_root_for_p_2():
    assert theory.optimal_ratio(64, 1e-4, 1e-3) == pytest.approx((1e-4 * 64**2 / 1e-3) ** (1 / 3))


def test_fit_loss_recovers_what_made_the_losses(rng):
    ratios = np.array([2.0, 4, 8, 16, 32] * 40)
    losses = 0.25 + 0.003 * ratios**2 / 2 + rng.normal(scale=0.01, size=ratios.size)
    l0, kappa = theory.fit_loss(ratios, losses)
    assert l0 == pytest.approx(0.25, abs=0.005)
    assert kappa == pytest.approx(0.003, rel=0.01)


def test_the_noise_gate_has_the_least_error_of_all_gates(rng):
    x = rng.normal(loc=1.0, scale=2.0, size=50_000)
    for sigma in (0.3, 1.0, 4.0):
        y = x + rng.normal(scale=sigma, size=x.size)
        tried = np.linspace(0, 1, 201)
        errors = [((g * y - x) ** 2).mean() for g in tried]
        best = theory.noise_gate(sigma**2, (x**2).mean())
        assert tried[np.argmin(errors)] == pytest.approx(best, abs=0.01)


def test_the_noise_gate_trades_bias_for_variance():
    power, variance = 5.0, 2.0
    g = theory.noise_gate(variance, power)
    assert (1 - g) ** 2 * power + g**2 * variance < min(power, variance)


def test_the_ridge_gate_has_the_least_penalized_error(rng):
    x = rng.normal(scale=1.5, size=50_000)
    y = 0.8 * x + rng.normal(scale=0.5, size=x.size)
    for penalty in (0.0, 0.5, 5.0):
        tried = np.linspace(0, 1, 201)
        costs = [((y - g * x) ** 2).mean() + penalty * g**2 for g in tried]
        best = theory.ridge_gate(0.8, 1.5**2, penalty)
        assert tried[np.argmin(costs)] == pytest.approx(best, abs=0.01)


SLOPES = {
    "sigmoid": lambda v: np.exp(-v) / (1 + np.exp(-v)) ** 2,
    "hard_sigmoid": lambda v: (np.abs(v) < 3) / 6.0,
    "tanh": lambda v: 1 - np.tanh(v) ** 2,
    "one_plus_tanh": lambda v: 1 - np.tanh(v) ** 2,
}


@pytest.mark.parametrize("gate", SLOPES)
def test_the_jacobian_is_that_of_the_layer_and_bounded_by_the_slope(gate, rng):
    layer = block(6, ratio=1.5, gate=gate, dtype="float64")
    w1, b1, w2, b2 = layer.excitation()
    g = rng.normal(size=6)
    jacobian = theory.excitation_jacobian(g, w1, b1, w2, b2, SLOPES[gate])
    step = 1e-6
    for channel in range(6):
        moved = np.stack([g, g])
        moved[:, channel] += [-step, step]
        low, high = layer.gates(moved[:, None, :])
        np.testing.assert_allclose(jacobian[:, channel], (high - low) / (2 * step), atol=1e-6)
    norm = np.linalg.norm
    slope = gates_module.get(gate).slope
    assert norm(jacobian, 2) <= slope * norm(w1, 2) * norm(w2, 2) + 1e-12


@pytest.mark.parametrize("peaks", [1, 3, 64])
def test_squeezes_of_peaks_are_those_of_the_layer(peaks, rng):
    x = np.zeros(64)
    x[rng.permutation(64)[:peaks]] = 16.0
    x = x.reshape(1, 8, 8, 1)
    expected = [float(gates_input(x, squeeze)) for squeeze in ("avg", "max")]
    assert theory.squeezes_of_peaks(8, 8, peaks, 16.0) == pytest.approx(expected)


def gates_input(x, squeeze):
    from keras_se.layers import squeezes

    return keras.ops.convert_to_numpy(squeezes.get(squeeze)(x, (1, 2))).item()


def test_on_even_maps_average_and_maximum_agree_and_on_sparse_ones_not():
    assert len(set(theory.squeezes_of_peaks(8, 8, 64, 2.0))) == 1
    average, maximum = theory.squeezes_of_peaks(8, 8, 1, 2.0)
    assert maximum / average == 64


def test_inactive_units_can_be_dropped(rng):
    layer = block(8, ratio=1, gate="tanh", dtype="float64")
    w1, b1, w2, b2 = layer.excitation()
    used = set()
    for g in rng.normal(size=(20, 8)):
        k1, kb, k2 = theory.active_excitation(g, w1, b1, w2)
        assert 0 < k1.shape[1] < 8
        without_relu = np.tanh((g @ k1 + kb) @ k2 + b2)
        np.testing.assert_allclose(without_relu, layer.gates(g[None, None])[0], atol=1e-12)
        used.add(k1.tobytes())
    assert len(used) > 1  # which units are active depends on the example


def test_the_same_positive_gate_before_or_after_a_relu_is_the_same(rng):
    x, s = rng.normal(size=(4, 4, 8)), rng.random(8)
    np.testing.assert_array_equal(theory.gate_then_relu(x, s), theory.relu_then_gate(x, s))


def test_a_negative_gate_before_or_after_a_relu_is_not_the_same(rng):
    x, s = rng.normal(size=(4, 4, 8)), -rng.random(8)
    assert np.abs(theory.gate_then_relu(x, s) - theory.relu_then_gate(x, s)).max() > 0.1


def test_a_gate_computed_before_or_after_a_relu_is_another_gate(rng):
    x, layer = rng.normal(size=(1, 4, 4, 8)).astype("float32"), block(8, ratio=2)
    assert np.abs(layer.gates(x) - layer.gates(np.maximum(x, 0))).max() > 0.01


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def test_on_the_pooled_map_pointwise_excitation_is_the_layers(rng):
    x, layer = rng.normal(size=(5, 7, 8)), block(8, ratio=2, dtype="float64")
    pooled = x.mean(axis=(0, 1), keepdims=True)
    gates = theory.pointwise_excitation(pooled, *layer.excitation(), sigmoid)
    np.testing.assert_allclose(gates[0, 0], layer.gates(x[None])[0], atol=1e-12)


def test_without_pooling_it_is_local(rng):
    """One changed pixel changes the gates of that pixel alone; with pooling it changes all."""
    x, layer = rng.normal(size=(5, 7, 8)), block(8, ratio=2, dtype="float64")
    changed = x.copy()
    changed[2, 3] += 1.0
    before, after = (
        theory.pointwise_excitation(m, *layer.excitation(), sigmoid) for m in (x, changed)
    )
    moved = np.abs(after - before).max(axis=-1) > 0
    assert moved.sum() == 1
    assert moved[2, 3]
    assert np.abs(layer.gates(x[None]) - layer.gates(changed[None])).max() > 0


def test_batch_normalization_at_inference_is_one_affine_map_and_se_is_not(rng):
    layer = keras.layers.BatchNormalization(epsilon=1e-3, dtype="float64")
    layer.build((None, 4, 4, 8))
    gamma, beta, mean = rng.normal(size=(3, 8))
    layer.set_weights([gamma, beta, mean, rng.random(8) + 0.5])
    x = rng.normal(size=(6, 4, 4, 8))
    a, b = theory.batch_normalization_affine(*layer.get_weights(), 1e-3)
    np.testing.assert_allclose(layer(x, training=False), a * x + b, atol=1e-12)
    factors = block(8, ratio=2, dtype="float64").gates(x)  # the a of SE, one for each example
    assert factors.std(axis=0).max() > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.fit_loss([2, 2], [1, 1]), "at least two different ratios"),
        (lambda: theory.fit_loss([2, 4], [1]), r"Received: shapes \(2,\) and \(1,\)"),
        (lambda: theory.optimal_ratio(8, 0.0, 1.0), r"above 0\. Received: penalty=0\.0"),
        (lambda: theory.optimal_ratio(8, 1.0, -1.0), r"curvature=-1\.0"),
        (lambda: theory.parameters(8, 0.5), "ratio is a divisor"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
