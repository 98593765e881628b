"""Weights in and out, in the layouts of other libraries."""

import numpy as np
import pytest
from arrays import arrays

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import GraphSEBlock

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5, 5, 8)).astype("float32")


def built(channels=8, **arguments):
    block = SEBlock(**{"ratio": 2, **arguments})
    block.build((None, 4, 4, channels))
    return block


def weights(c=8, d=4):
    return RNG.normal(size=(c, d)), RNG.normal(size=d), RNG.normal(size=(d, c)), RNG.normal(size=c)


LAYOUTS = {
    "dense": lambda w: w,
    "Keras convolution": lambda w: w[None, None],
    "torch linear": lambda w: w.T,
    "torch convolution": lambda w: w.T[:, :, None, None],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block_class", [SEBlock, GraphSEBlock])
def test_every_layout_gives_the_same_block(layout, block_class):
    w1, b1, w2, b2 = weights()
    store = LAYOUTS[layout]
    block = block_class(2)
    block.build((None, 4, 8) if block_class is SEBlock else ((None, 8), (None,)))
    assert block.set_excitation(store(w1), b1, store(w2), b2) is block
    for got, expected in zip(block.excitation(), (w1, b1, w2, b2), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(("layout", "store"), [("dense", lambda w: w), ("torch", lambda w: w.T)])
def test_square_kernels_need_the_layout(layout, store):
    w1, b1, w2, b2 = weights(8, 8)
    block = built(ratio=1)
    with pytest.raises(InputError, match=r"must be 'dense' or 'torch' if w1 is square\. Received"):
        block.set_excitation(store(w1), b1, store(w2), b2)
    block.set_excitation(store(w1), b1, store(w2), b2, layout=layout)
    np.testing.assert_allclose(block.excitation()[0], w1, rtol=1e-6)


def test_square_convolutions_tell_their_layout():
    w1, b1, w2, b2 = weights(8, 8)
    for store in (LAYOUTS["Keras convolution"], LAYOUTS["torch convolution"]):
        block = built(ratio=1).set_excitation(store(w1), b1, store(w2), b2)
        np.testing.assert_allclose(block.excitation()[0], w1, rtol=1e-6)


def test_excitation_is_the_inverse():
    for arguments in ({}, {"shift": True}, {"use_bias": False}):
        block, twin = built(**arguments), built(**arguments)
        twin.set_excitation(*block.excitation())
        np.testing.assert_array_equal(arrays(block(X)), arrays(twin(X)))


def test_missing_biases_are_zeros():
    w1, _, w2, _ = weights()
    block = built(bias_initializer="ones").set_excitation(w1, None, w2, None)
    np.testing.assert_array_equal(block.b1, np.zeros(4))
    np.testing.assert_array_equal(block.b2, np.zeros(8))


W1, B1, W2, B2 = weights()


@pytest.mark.parametrize(
    ("arguments", "given", "options", "message"),
    [
        ({}, (W1[:7], B1, W2, B2), {}, r"w1 must have one of the shapes \[\(8, 4\), \(1, 1, 8, 4"),
        ({}, (W1, B1[:3], W2, B2), {}, r"b1 must have the shape \(4,\)\. Received: \(3,\)"),
        ({}, (W1, B1, W2, B2), {"layout": "torch"}, r"w1 must have one of the shapes \[\(4, 8\), "),
        ({}, (W1, B1, W2, B2), {"layout": "caffe"}, "layout must be None, 'dense' or 'torch'"),
        ({"use_bias": False}, (W1, B1, W2, B2), {}, "with use_bias=True for a bias. Received: b1"),
        ({}, (W1, B1, W2, B2, W2), {}, "shift=True for a shift .* Received: w_shift"),
        ({"shift": True}, (W1, B1, W2, B2), {}, "w_shift must have one of the shapes"),
    ],
)
def test_refusals_change_nothing(arguments, given, options, message):
    block = built(**arguments)
    before = block.get_weights()
    with pytest.raises(InputError, match=message):
        block.set_excitation(*given, **options)
    for old, new in zip(before, block.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("call", [SEBlock.excitation, lambda b: b.set_excitation(W1, B1, W2, B2)])
def test_an_unbuilt_block_has_no_matrices(call):
    with pytest.raises(InputError, match=r"until it is built: .* Received: SEBlock 'se'"):
        call(SEBlock(name="se"))


def test_the_form_of_torchvision():
    """AdaptiveAvgPool2d, two Conv2d of size 1 with bias, ReLU, Sigmoid or Hardsigmoid; NCHW."""
    fc1, fc2 = RNG.normal(size=(4, 8, 1, 1)), RNG.normal(size=(8, 4, 1, 1))
    b1, b2 = RNG.normal(size=4), RNG.normal(size=8)
    x = np.moveaxis(X, -1, 1)
    pooled = x.mean(axis=(2, 3), keepdims=True)
    hidden = np.maximum(np.einsum("oi,nihw->nohw", fc1[..., 0, 0], pooled) + b1[:, None, None], 0)
    v = np.einsum("oi,nihw->nohw", fc2[..., 0, 0], hidden) + b2[:, None, None]
    scales = {"sigmoid": 1 / (1 + np.exp(-v)), "hard_sigmoid": np.clip(v + 3, 0, 6) / 6}
    for gate, scale in scales.items():
        block = SEBlock(width=4, gate=gate, data_format="channels_first")
        block.build(x.shape)
        block.set_excitation(fc1, b1, fc2, b2)
        np.testing.assert_allclose(arrays(block(x)), scale * x, atol=2e-6)
