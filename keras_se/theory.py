"""The analysis behind Squeeze-and-Excitation, a function for each claim.

Everything here is NumPy on plain numbers and arrays. C is the number of channels, H×W the size of
the map, r the reduction ratio, d = C / r the width of the bottleneck. Matrices are as the layer
holds them: W1 (C, d) and W2 (d, C).
"""

from collections.abc import Callable

import numpy as np

from keras_se.errors import InputError
from keras_se.layers.bottleneck import bottleneck_width


def parameters(channels: int, ratio: float = 16, *, use_bias: bool = False) -> int:
    """Number of parameters of an SE block.

    W1 and W2 hold C·d numbers each: 2·C·d, which is 2C²/r where r divides C. Two biases add d + C.

    Args:
        channels: C.
        ratio: r.
        use_bias: Whether the biases are counted; the paper's figures are without.

    Returns:
        The exact number, with d = max(1, floor(C / r)).

    Source: Hu et al., arXiv 1709.01507v4, section 4, equation 5.

    Example:
        >>> parameters(64, 16), parameters(64, 16, use_bias=True)
        (512, 580)
    """
    width = bottleneck_width(channels, ratio)
    return 2 * channels * width + (width + channels if use_bias else 0)


def flops(channels: int, height: int, width: int, ratio: float = 16) -> float:
    """Floating-point operations of an SE block on one example: F = 2·C·H·W + 4·C²/r.

    Per channel, the squeeze adds H·W numbers, the recalibration multiplies as many: 2·C·H·W. Each
    matrix multiplies and adds C·d pairs: 2 · 2·C·d = 4·C²/r. Biases, activation and gate, O(C), are
    left out.

    Args:
        channels: C.
        height: H.
        width: W.
        ratio: r.

    Returns:
        F, by the formula; exact where r divides C.

    Source: counted from the block's definition, Hu et al., arXiv 1709.01507v4, section 3.

    Example:
        >>> flops(64, 8, 8, 16)
        9216.0
    """
    return 2.0 * channels * height * width + 4.0 * channels**2 / ratio


def excitation_dominates(channels: int, size: int, ratio: float = 16) -> bool:
    """Whether the excitation is at least half of the cost of a block on an S×S map.

    4C²/r >= 2·C·S² is C >= r·S²/2: in late stages, with small maps of many channels.

    Args:
        channels: C.
        size: S.
        ratio: r.

    Returns:
        Whether C >= r·S²/2.

    Source: follows from `flops`.

    Example:
        >>> excitation_dominates(2048, 7, 16), excitation_dominates(256, 56, 16)
        (True, False)
    """
    return channels >= ratio * size**2 / 2


def structural_risk(
    loss: np.ndarray | float, channels: int, ratio: np.ndarray | float, penalty: float
) -> np.ndarray:
    """J(r) = L_val(r) + λ·C²/r: a measured loss with a price on the parameters.

    C²/r is half of the number of parameters of a block; λ says how much loss a parameter is worth.

    Args:
        loss: L_val for each ratio.
        channels: C; for several blocks the root of the sum of their C².
        ratio: r, one or several.
        penalty: λ, at least 0.

    Returns:
        J for each ratio.

    Source: Vapnik, "The Nature of Statistical Learning Theory", chapter 4.

    Example:
        >>> structural_risk(np.array([0.30, 0.32]), 64, np.array([8, 16]), 1e-4).round(4)
        array([0.3512, 0.3456])
    """
    return np.asarray(loss) + penalty * channels**2 / np.asarray(ratio)


def fit_loss(ratios: np.ndarray, losses: np.ndarray, power: float = 2.0) -> tuple[float, float]:
    """The L0 and κ of L(r) = L0 + κ·r^p / p that fit measured losses best.

    L is linear in L0 and κ: ordinary least squares on r^p / p.

    Args:
        ratios: At least two different ratios.
        losses: The loss at each.
        power: p, above 0.

    Returns:
        `(L0, κ)`.

    Raises:
        InputError: If the arrays do not match, or fewer than two ratios differ.

    Source: second-order expansion of the loss in r (p = 2); least squares.

    Example:
        >>> ratios = np.array([2.0, 4.0, 8.0])
        >>> l0, kappa = fit_loss(ratios, 0.3 + 0.01 * ratios**2 / 2)
        >>> round(l0, 6), round(kappa, 6)
        (0.3, 0.01)
    """
    x, y = np.asarray(ratios, "float64") ** power / power, np.asarray(losses, "float64")
    if x.shape != y.shape or x.ndim != 1 or np.unique(x).size < 2:
        raise InputError(
            "fit_loss needs one loss for each ratio and at least two different ratios. "
            f"Received: shapes {x.shape} and {y.shape}"
        )
    kappa, l0 = np.polyfit(x, y, 1)
    return float(l0), float(kappa)


def optimal_ratio(channels: float, penalty: float, curvature: float, power: float = 2.0) -> float:
    """The r that minimizes the structural risk L0 + κ·r^p / p + λ·C²/r.

    The derivative κ·r^(p-1) - λ·C²/r² grows with r and vanishes at r* = (λ·C²/κ)^(1/(p+1)), a
    minimum. With p = 2, r* = (λ·C²/κ)^(1/3).

    Args:
        channels: C; for several blocks the root of the sum of their C².
        penalty: λ, above 0.
        curvature: κ, above 0: otherwise a larger ratio costs nothing and there is no optimum.
        power: p.

    Returns:
        r*, unrounded; it may be below 1.

    Raises:
        InputError: If λ or κ is not above 0.

    Source: derived here from `structural_risk` and `fit_loss`.

    Example:
        >>> optimal_ratio(64, 1e-4, 1e-3)
        7.426...
    """
    if penalty <= 0 or curvature <= 0:
        raise InputError(
            "optimal_ratio needs a penalty and a curvature above 0. "
            f"Received: penalty={penalty!r}, curvature={curvature!r}"
        )
    return float((penalty * channels**2 / curvature) ** (1.0 / (power + 1.0)))


def noise_gate(noise_variance: np.ndarray | float, signal_power: float) -> np.ndarray:
    """The gate g = 1 / (1 + γσ²) that denoises a channel best, with γ = 1 / E[x²].

    A channel carries y = x + n, the noise n of variance σ² and mean 0, independent of x. The error
    E[(g·y - x)²] = (1 - g)²·E[x²] + g²·σ² is a squared bias, which closing the gate adds, and a
    variance, which it removes. Its derivative vanishes at g* = E[x²] / (E[x²] + σ²).

    Args:
        noise_variance: σ² of each channel.
        signal_power: E[x²], above 0.

    Returns:
        g* of each channel, between 0 and 1.

    Source: Wiener's filter for a scalar; bias and variance as in Hastie et al., "The Elements of
    Statistical Learning", section 7.3.

    Example:
        >>> noise_gate(np.array([0.0, 1.0, 9.0]), 1.0)
        array([1. , 0.5, 0.1])
    """
    return 1.0 / (1.0 + np.asarray(noise_variance) / signal_power)


def ridge_gate(slope: float, signal_variance: float, penalty: float) -> float:
    """The gate that explains a target best under a price on its size: g* = β·σx² / (σx² + λ).

    For y = β·x + ε, E[(y - g·x)²] + λ·g² has the derivative -2(β - g)·σx² + 2·λ·g, which vanishes
    at g*: ridge regression with one predictor. Channels of little variance are shut first.

    Args:
        slope: β.
        signal_variance: σx², above 0.
        penalty: λ, at least 0.

    Returns:
        g*.

    Source: Hoerl and Kennard, "Ridge Regression", Technometrics 12 (1970).

    Example:
        >>> ridge_gate(2.0, 1.0, 1.0)
        1.0
    """
    return slope * signal_variance / (signal_variance + penalty)


def excitation_jacobian(
    squeezed: np.ndarray,
    w1: np.ndarray,
    b1: np.ndarray,
    w2: np.ndarray,
    b2: np.ndarray,
    gate_slope: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """How the gates of one example react to its squeezed features: ds/dg.

    With v = W2ᵀ·h + b2, h = relu(W1ᵀ·g + b1), ds/dg = diag(gate'(v)) · W2ᵀ · diag(h > 0) · W1ᵀ. Its
    norm is at most max|gate'| · |W2| · |W1|, with max|gate'| 1/4 for sigmoid, 1/6 for hard_sigmoid,
    1 for tanh and one_plus_tanh. It also scales the gradients of W1 and W2 through the gate.

    Args:
        squeezed: g, shape (C,).
        w1: Shape (C, d).
        b1: Shape (d,).
        w2: Shape (d, C).
        b2: Shape (C,).
        gate_slope: The derivative of the gate, element by element.

    Returns:
        Array of shape (C, C): entry (i, j) is ds_i / dg_j.

    Source: derived here, from Hu et al., arXiv 1709.01507v4, equation 3.

    Example:
        >>> one = np.ones((1, 1))
        >>> excitation_jacobian(np.ones(1), one, np.zeros(1), one, -np.ones(1),
        ...                     lambda v: 1 - np.tanh(v) ** 2)
        array([[1.]])
    """
    before = squeezed @ w1 + b1
    v = np.maximum(before, 0.0) @ w2 + b2
    return gate_slope(v)[:, None] * ((w2.T * (before > 0)) @ w1.T)


def squeezes_of_peaks(height: int, width: int, peaks: int, value: float) -> tuple[float, float]:
    """Average and maximum squeeze of a channel with `peaks` positions at `value`, others at 0.

    The average is peaks·value / (H·W), the maximum is value: on sparse peaks only the maximum is
    high, like hard attention to the strongest position; on an even map (peaks = H·W) they agree.

    Args:
        height: H.
        width: W.
        peaks: From 1 to H·W.
        value: Above 0.

    Returns:
        `(average, maximum)`.

    Source: Hu et al., arXiv 1709.01507v4, section 6.2, compares the two.

    Example:
        >>> squeezes_of_peaks(8, 8, 1, 16.0)
        (0.25, 16.0)
    """
    return peaks * value / (height * width), float(value)


def active_excitation(
    squeezed: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of the bottleneck that an example uses: ReLU as a hard gate.

    relu(z) = [z > 0]·z: a unit whose W1ᵀ·g + b1 is negative is dropped with its row of W2, for this
    example. Without these rows and columns the excitation is affine, and the same.

    Args:
        squeezed: g, shape (C,).
        w1: Shape (C, d).
        b1: Shape (d,).
        w2: Shape (d, C).

    Returns:
        W1, b1 and W2 of the active units alone, of which there are k: shapes (C, k), (k,), (k, C).

    Source: derived here, from Hu et al., arXiv 1709.01507v4, equation 3.

    Example:
        >>> w1, b1, w2 = active_excitation(
        ...     np.ones(2), np.array([[1.0, -1.0], [1.0, -1.0]]), np.zeros(2), np.eye(2))
        >>> w1.shape
        (2, 1)
    """
    active = squeezed @ w1 + b1 > 0
    return w1[:, active], b1[active], w2[active]


def relu_then_gate(x: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """s·relu(x): the block after the activation.

    For s >= 0, relu(s·x) = s·relu(x), since such a factor changes no sign: with the *same* gate the
    block may stand before or after a ReLU, but not with a negative gate (`tanh`). Nor is it the
    same where the gate is *computed* from the map before or after the ReLU: the squeezes differ.

    Args:
        x: Feature maps, channels on the last axis.
        gates: s, shape (channels,).

    Returns:
        Array of the shape of `x`.

    Source: positive homogeneity of ReLU.

    Example:
        >>> relu_then_gate(np.array([-2.0, 2.0]), np.array([0.5, 0.5]))
        array([0., 1.])
    """
    return gates * np.maximum(x, 0.0)


def gate_then_relu(x: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """relu(s·x): the block before the activation; see `relu_then_gate`.

    Args:
        x: Feature maps, channels on the last axis.
        gates: s, shape (channels,).

    Returns:
        Array of the shape of `x`.

    Source: positive homogeneity of ReLU.

    Example:
        >>> gate_then_relu(np.array([-2.0, 2.0]), np.array([-0.5, 0.5]))
        array([1., 1.])
    """
    return np.maximum(gates * x, 0.0)


def pointwise_excitation(
    x: np.ndarray,
    w1: np.ndarray,
    b1: np.ndarray,
    w2: np.ndarray,
    b2: np.ndarray,
    gate: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The excitation as two 1×1 convolutions over whatever map it is given.

    A 1×1 convolution is the same affine map at every position. On the pooled map, of one position,
    this is the excitation of SE: two fully connected layers. On the map itself it is local
    attention: a gate depends on its position alone, and the cost is H·W times as high.

    Args:
        x: Map of shape (height, width, C), 1×1 where it is pooled.
        w1: Shape (C, d).
        b1: Shape (d,).
        w2: Shape (d, C).
        b2: Shape (C,).
        gate: The gate, element by element.

    Returns:
        Gates of the shape of `x`.

    Source: Lin et al., "Network in Network", arXiv 1312.4400, section 3.1 (1×1 convolutions).

    Example:
        >>> zero = np.zeros((2, 2))
        >>> pointwise_excitation(np.ones((1, 1, 2)), zero, zero[0], zero, zero[0], np.tanh).shape
        (1, 1, 2)
    """
    return gate(np.maximum(x @ w1 + b1, 0.0) @ w2 + b2)


def batch_normalization_affine(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """The one affine map per channel that BatchNormalization is at inference.

    γ·(x - μ) / √(σ² + ε) + β = a·x + b with a = γ / √(σ² + ε) and b = β - a·μ, for every example
    alike. SE multiplies by a factor that depends on the example: no fixed a and b can replace it.

    Args:
        gamma: γ, shape (C,).
        beta: β, shape (C,).
        mean: μ, the moving mean, shape (C,).
        variance: σ², the moving variance, shape (C,).
        epsilon: ε.

    Returns:
        `(a, b)`, each of shape (C,).

    Source: Ioffe and Szegedy, arXiv 1502.03167, algorithm 2.

    Example:
        >>> batch_normalization_affine(np.ones(1), np.zeros(1), np.ones(1), np.full(1, 4.0), 0.0)
        (array([0.5]), array([-0.5]))
    """
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - scale * mean
