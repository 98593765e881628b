"""Networks of other packages, with the gates of their SE as the package itself computes them.

Where a package writes SE with plain layers, its Multiply layers have a name by which to know them;
where it has a layer for SE, that layer holds the one whose output is the gate. One run, layer by
layer, notes the gates that pass there: as many as there are sites, without any of `keras_se`.

`pip install -e ".[all,bench]"` installs the packages beside Keras 3.15.1, but for three that name
old versions of Keras and run on the new one:
`pip install --no-deps segmentation-models-3D==1.1.1 gcvit==1.1.6 efficientnet==1.1.1`.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest import mock

import keras
import numpy as np

CLASSES = 10
IMAGE, VOLUME = (64, 64, 3), (32, 32, 32, 3)
LARGE = (128, 128, 3)  # in smaller ones a local pooling covers the whole map, and squeezes it
KERAS_2 = {  # of its backend
    "image_data_format": keras.config.image_data_format,
    "int_shape": lambda x: x.shape,
    "is_keras_tensor": keras.backend.is_keras_tensor,
}


@dataclass(frozen=True)
class Other:
    """A network of a package, and where its gates are.

    Attributes:
        package: Its name on the package index.
        build: Returns the model, with weights of its own.
        gates: Pattern of the names of the Multiply layers that apply a gate, or
            `Class.attribute` of the layer whose output is the gate; empty where there is no SE.
    """

    package: str
    build: Callable[[], keras.Model]
    gates: str = ""


def applications(name: str) -> keras.Model:
    """A network of keras.applications."""
    network = getattr(keras.applications, name)
    return network(weights=None, input_shape=IMAGE, classes=CLASSES)


def transferred(name: str) -> keras.Model:
    """One of keras.applications without its top, behind augmentation and before a new head."""
    network = getattr(keras.applications, name)
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            keras.layers.RandomFlip(),
            network(weights=None, input_shape=IMAGE, include_top=False, pooling="avg"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(CLASSES),
        ]
    )


def kimm(name: str, shape: tuple[int, ...] = IMAGE) -> keras.Model:
    """A network of kimm."""
    network = getattr(import_module("kimm").models, name)
    return network(weights=None, input_shape=shape, classes=CLASSES)


def kecam(name: str, shape: tuple[int, ...] = IMAGE) -> keras.Model:
    """A network of keras-cv-attention-models, on Keras 3 in the place of keras_core."""
    os.environ["KECAM_BACKEND"] = "keras_core"
    layers = ("backend", "callbacks", "initializers", "layers", "losses", "metrics", "models")
    for module in (*layers, "ops", "utils"):
        sys.modules[f"keras_core.{module}"] = getattr(keras, module)
    torch = ("torch", "torch.nn", "torch.nn.functional", "torch.utils", "torch.utils.data")
    stand_ins = {module: mock.MagicMock() for module in torch}  # for its data sets only
    with mock.patch.dict(sys.modules, keras_core=keras):
        sys.modules.update(stand_ins)
        networks = import_module("keras_cv_attention_models").models
        loaded = dict(sys.modules)
    sys.modules.update((key, module) for key, module in loaded.items() if key not in torch)
    return getattr(networks, name)(input_shape=shape, num_classes=CLASSES, pretrained=None)


def hub_mobilenet() -> keras.Model:
    """The MobileNet of KerasHub's example."""
    hard_swish = ["hard_swish"] * 3
    return import_module("keras_hub").models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
        stackwise_num_blocks=[2, 3, 2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None] * 2, [0.25] * 3, [0.3] * 2, [0.3, 0.25, 0.25]],
        stackwise_activation=[["relu"] * 2, hard_swish, hard_swish[:2], hard_swish],
        stackwise_padding=[[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
        output_num_filters=288,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        image_shape=IMAGE,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=288,
        squeeze_and_excite=0.5,
    )


STACKS = {  # of a small EfficientNet
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 3],
    "stackwise_num_repeats": [1, 2, 1, 2, 1, 2],
    "stackwise_input_filters": [16, 16, 24, 24, 32, 32],
    "stackwise_output_filters": [16, 24, 24, 32, 32, 48],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 6,
    "stackwise_strides": [1, 2, 1, 2, 1, 2],
    "input_shape": IMAGE,
}
KINDS = ["fused"] * 3 + ["unfused"] * 3


def hub_efficientnet(kinds: list[str]) -> keras.Model:
    """A small EfficientNet of KerasHub with stacks of these kinds."""
    scales = {f"stackwise_{name}_coefficients": [1.0] * 6 for name in ("width", "depth")}
    network = import_module("keras_hub").models.EfficientNetBackbone
    return network(**STACKS, **scales, stackwise_block_types=kinds)


def hub_vit() -> keras.Model:
    """A small vision transformer of KerasHub."""
    return import_module("keras_hub").models.ViTBackbone(
        image_shape=IMAGE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    )


def cv_efficientnet(name: str, **kinds: list[str]) -> keras.Model:
    """A small EfficientNet of KerasCV."""
    network = getattr(import_module("keras_cv").models, name)
    scales = {"width_coefficient": 1.0, "depth_coefficient": 1.0}
    return network(**STACKS, **kinds, **scales, include_rescaling=False)


def cv_mobilenet() -> keras.Model:
    """The MobileNetV3-Small of KerasCV's example."""
    return import_module("keras_cv").models.MobileNetV3Backbone(
        stackwise_expansion=[1, 72.0 / 16, 88.0 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        stackwise_filters=[16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        stackwise_kernel_size=[3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5],
        stackwise_stride=[2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
        stackwise_se_ratio=[0.25, None, None, *[0.25] * 8],
        stackwise_activation=["relu"] * 3 + ["hard_swish"] * 8,
        include_rescaling=False,
        input_shape=IMAGE,
    )


def zero(name: str, **options: Any) -> keras.Model:
    """A classifier of zeromodels."""
    network = getattr(import_module(f"zeromodels.models.{name.lower()}"), f"{name}ImageClassify")
    return network(image_size=IMAGE[0], num_classes=CLASSES, **options)


def medicai(name: str, shape: tuple[int, ...], **options: Any) -> keras.Model:
    """A network of medicai for images or volumes."""
    network = getattr(import_module("medicai.models"), name)
    return network(input_shape=shape, num_classes=CLASSES, **options)


def classifiers(module: str, name: str) -> keras.Model:
    """A network of image-classifiers, with the one function of Keras 2 that it needs."""
    network = getattr(import_module(f"classification_models.models.{module}"), name)
    parts = {"layers": keras.layers, "models": keras.models, "utils": keras.utils}
    parts["backend"] = SimpleNamespace(**KERAS_2)
    return network(IMAGE, weights=None, classes=CLASSES, **parts)


def classifiers_3d(name: str) -> keras.Model:
    """A network of classification-models-3D."""
    network, _ = import_module("classification_models_3D.kkeras").Classifiers.get(name)
    return network(input_shape=VOLUME, weights=None, include_top=False, pooling="avg")


def unet_3d(backbone: str) -> keras.Model:
    """A U-Net of segmentation-models-3D on a backbone with SE."""
    network = import_module("segmentation_models_3D").Unet
    return network(backbone, input_shape=VOLUME, encoder_weights=None, classes=2)


def fastvit() -> keras.Model:
    """FastViT of keras-vision, with SE after its last stage."""
    network = import_module("keras_vision.fastvit.fastvit").fastvit_t8
    return network(input_shape=IMAGE, num_classes=CLASSES)


def mobilenet_v3() -> keras.Model:
    """MobileNetV3-Small of mobilenet-v3, with the functions of Keras 2 that it needs."""
    sys.modules["keras.utils.vis_utils"] = keras.utils  # for plot_model
    import_module("mobilenet_v3.mobilenet_base").K = SimpleNamespace(
        **KERAS_2, relu=lambda x, max_value: keras.ops.clip(x, 0, max_value)
    )
    network = import_module("mobilenet_v3.mobilenet_v3_small").MobileNetV3_Small
    return network(IMAGE, CLASSES).build()


def gcvit() -> keras.Model:
    """A small GCViT of gcvit: a subclassed model of TensorFlow operations, called as a layer."""
    heads, windows = (1, 2, 2, 2), (2, 2, 4, 2)
    network = import_module("gcvit").GCViT(windows, 16, (1, 1, 1, 1), heads, num_classes=CLASSES)
    inputs = keras.Input(IMAGE)
    return keras.Model(inputs, network(inputs))


def k3im(module: str, name: str, **options: Any) -> keras.Model:
    """A network of k3im."""
    network = getattr(import_module(f"k3im.{module}"), name)
    return network(num_classes=CLASSES, **options)


def _many(package: str, build: Callable[[str], keras.Model], gates: str, names: str) -> dict:
    """Networks that differ in their name only."""
    return {
        f"{package}/{name}": Other(package, partial(build, name), gates) for name in names.split()
    }


CLASSIFIERS, HUB, CV, KECAM = "image-classifiers", "keras-hub", "keras-cv", "kecam"
SMALL = {"depths": (1, 1, 1, 1), "projection_dim": (16, 32, 48, 64)}
MAXVIT = {"depths": (1, 1, 1, 1), "embed_dim": (32, 48, 64, 96), "window_size": 2}
PATCHES = {"image_size": 32, "patch_size": 8, "embedding_dim": 32, "num_blocks": 2}

WITH_SE = {
    **_many("keras", applications, "se_excite$", "EfficientNetB0 EfficientNetV2B0"),
    "keras/MobileNetV3Small": Other("keras", partial(applications, "MobileNetV3Small"), "_mul$"),
    "keras/transferred": Other("keras", partial(transferred, "EfficientNetB0"), "se_excite$"),
    **_many("kimm", kimm, "_se$", "GhostNetW050 GhostNetV3W050 EfficientNetB0"),
    **_many("kimm", kimm, "_se$", "EfficientNetV2B0 TinyNetE MobileNetV3W050Small LCNet050"),
    **_many("kimm", kimm, "_se$", "RegNetY002"),
    "kimm/GhostNetV2W100": Other("kimm", partial(kimm, "GhostNetV2W100", LARGE), "_se$"),
    "kecam/GhostNetV2_100": Other(KECAM, partial(kecam, "GhostNetV2_100", LARGE), "se_out$"),
    "kimm/HGNetTiny": Other("kimm", partial(kimm, "HGNetTiny"), "^multiply"),  # one matrix
    **_many(KECAM, kecam, "se_out$", "EfficientNetV1B0 EfficientNetV2B0 MobileNetV3Small050"),
    **_many(KECAM, kecam, "se_out$", "FBNetV3B LCNet050 TinyNetE GhostNet_050"),
    **_many(KECAM, kecam, "se_out$", "RegNetZB16 NFNetL0 RepViT_M09 BotNetSE33T"),
    **_many(KECAM, kecam, "se_out$", "FastViT_T8"),
    "kecam/CSPNeXtTiny": Other(KECAM, partial(kecam, "CSPNeXtTiny"), "attention_out$"),  # as HGNet
    "keras-hub/MobileNet": Other(HUB, hub_mobilenet, "SqueezeAndExcite2D.gate"),
    "keras-hub/EfficientNetV1": Other(HUB, partial(hub_efficientnet, ["v1"] * 6), "se_excite$"),
    "keras-hub/EfficientNetV2": Other(HUB, partial(hub_efficientnet, KINDS), "se_excite$"),
    "keras-cv/MobileNetV3": Other(CV, cv_mobilenet, "SqueezeAndExcite2D.excite_conv"),
    "keras-cv/EfficientNetV1": Other(
        CV, partial(cv_efficientnet, "EfficientNetV1Backbone"), "se_excite$"
    ),
    "keras-cv/EfficientNetV2": Other(
        CV,
        partial(cv_efficientnet, "EfficientNetV2Backbone", stackwise_conv_types=KINDS),
        "se_excite$",
    ),
    **_many("zeromodels", zero, "^multiply", "EfficientNet RegNet"),
    "zeromodels/EfficientNetV2": Other(
        "zeromodels", partial(zero, "EfficientNetV2", width_coefficient=0.5), "se_excite$"
    ),
    "zeromodels/SENet": Other("zeromodels", partial(zero, "SENet"), "_se_scale$"),
    "zeromodels/MobileNetV3": Other(
        "zeromodels", partial(zero, "MobileNetV3", config="small"), "_se_multiply$"
    ),
    "zeromodels/MaxViT": Other("zeromodels", partial(zero, "MaxViT", **MAXVIT), "^multiply"),
    "medicai/SEResNet18": Other(
        "medicai", partial(medicai, "SEResNet18", IMAGE), "SqueezeExcitation.conv2"
    ),
    "medicai/SEResNet18 3D": Other(
        "medicai", partial(medicai, "SEResNet18", VOLUME), "SqueezeExcitation.conv2"
    ),
    "medicai/EfficientNetB0 3D": Other(
        "medicai", partial(medicai, "EfficientNetB0", VOLUME), "se_excite$"
    ),
    "image-classifiers/SEResNet18": Other(
        CLASSIFIERS, partial(classifiers, "resnet", "SEResNet18"), "^multiply"
    ),
    "image-classifiers/SEResNeXt50": Other(
        CLASSIFIERS, partial(classifiers, "senet", "SEResNeXt50"), "^multiply"
    ),
    "classification-models-3D/seresnet18": Other(
        "classification-models-3D", partial(classifiers_3d, "seresnet18"), "^multiply"
    ),
    "segmentation-models-3D/Unet": Other(
        "segmentation-models-3D", partial(unet_3d, "seresnet18"), "^multiply"
    ),
    "keras-vision/FastViT": Other("keras-vision", fastvit, "SEBlock.sigmoid"),
    "mobilenet-v3/Small": Other("mobilenet-v3", mobilenet_v3, "^multiply"),
    "gcvit/GCViT": Other("gcvit", gcvit, "SE.fc"),
}
WITHOUT_SE = {
    **_many("keras", applications, "", "MobileNetV2 ConvNeXtTiny"),
    **_many("kimm", kimm, "", "HGNetV2B0 MobileOneS0 ConvNeXtAtto MobileViTXXS MobileViTV2W050"),
    **_many("kimm", kimm, "", "EfficientNetLiteB0"),
    **_many(KECAM, kecam, "", "ResNest50 CotNet50 BotNextECA26T WaveMLP_T MogaNetXtiny"),
    **_many(KECAM, kecam, "", "ConvNeXtV2Atto CAFormerS18"),
    "keras-hub/ViT": Other(HUB, hub_vit),
    **_many("zeromodels", zero, "", "MobileNetV4 NextViT"),
    "zeromodels/ConvNeXtV2": Other("zeromodels", partial(zero, "ConvNeXtV2", **SMALL)),
    "medicai/AttentionUNet": Other(
        "medicai",
        partial(medicai, "AttentionUNet", IMAGE, encoder_name="resnet18"),
    ),
    "k3im/FocalNet": Other(
        "k3im",
        partial(k3im, "focalnet", "FocalNetModel", img_size=32, embed_dim=16, depths=[1, 1, 1, 1]),
    ),
    "k3im/gMLP": Other("k3im", partial(k3im, "gmlp", "gMLPModel", **PATCHES, dropout_rate=0.1)),
}
OTHERS = WITH_SE | WITHOUT_SE


def images(model: keras.Model, samples: int, seed: int) -> np.ndarray:
    """Inputs that differ in level, pattern and noise, within the range that the model rescales."""
    shape = model.inputs[0].shape[1:]
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 0.4, (samples, *(1,) * (len(shape) - 1), shape[-1]))
    pattern = rng.uniform(0, 0.4, (samples, *(4,) * (len(shape) - 1), shape[-1]))
    for axis, size in enumerate(shape[:-1], 1):
        pattern = np.repeat(pattern, size // 4, axis)
    x = x + pattern + rng.uniform(0, 0.2, (samples, *shape))
    rescaling = keras.layers.Rescaling | keras.layers.Normalization
    rescales = any(isinstance(layer, rescaling) for layer in _layers(model))
    return (x * (255 if rescales else 1)).astype("float32")


def _layers(model: keras.Model) -> list:
    """The layers of a model and of those nested in it."""
    nested = (_layers(layer) if hasattr(layer, "layers") else [layer] for layer in model.layers)
    return [layer for part in nested for layer in part]


def randomize(model: keras.Model, x: np.ndarray) -> None:
    """Gives each weight random values, and normalizations statistics near those of `x`."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(_values(rng, variable))

    def settle(layer: Any, arguments: tuple, output: Any) -> Any:
        if not isinstance(layer, keras.layers.BatchNormalization):
            return None
        values = keras.ops.convert_to_numpy(arguments[0])
        axes = tuple(axis for axis in range(values.ndim) if axis != layer.axis % values.ndim)
        mean, deviation = values.mean(axes), values.std(axes) + 1e-3
        layer.moving_mean.assign(mean + deviation * rng.normal(0, 0.2, mean.shape))
        layer.moving_variance.assign(deviation**2 * rng.uniform(0.7, 1.4, mean.shape))
        return layer.call(arguments[0], training=False)

    _run(model, x, settle)


def _values(rng: np.random.Generator, variable: Any) -> np.ndarray:
    shape, name = variable.shape, variable.path.rpartition("/")[2]
    if len(shape) < 2:
        is_factor = name in ("gamma", "gain", "scale")
        return rng.uniform(0.5, 1.5, shape) if is_factor else rng.normal(0, 0.2, shape)
    is_depthwise = len(shape) > 3 and shape[-1] == 1 < shape[-2]
    fan_in = np.prod(shape[:-2] if is_depthwise else shape[:-1])
    return rng.normal(size=shape) * np.sqrt(2 / fan_in)


def true_gates(other: Other, model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """The gates of each site, shape (samples, channels), in the order in which they come.

    Where all are tensors of the model they come from a model that ends in them, run as `predict`
    runs it: deep networks make much of rounding.
    """
    found, outputs, tensors = [], {}, []
    owner, _, attribute = other.gates.partition(".")

    def note(layer: Any, arguments: tuple, output: Any) -> None:
        outputs[id(layer)] = output
        if attribute and type(layer).__name__ == owner:
            last = keras.tree.flatten(getattr(layer, attribute))[-1]
            found.append(outputs[id(last)])
        is_product = not attribute and isinstance(layer, keras.layers.Multiply)
        if is_product and re.search(other.gates, layer.name):
            gate = int(keras.ops.size(arguments[0][1]) <= keras.ops.size(arguments[0][0]))
            found.append(arguments[0][gate])
            if layer in model.layers:
                tensors.append(layer.input[gate])

    if other.gates:
        _run(model, x, note)
    if tensors and len(tensors) == len(found):
        found = keras.tree.flatten(keras.Model(model.inputs, tensors).predict(x, verbose=0))
    return [keras.ops.convert_to_numpy(gates).reshape(len(x), -1) for gates in found]


def _run(model: keras.Model, x: np.ndarray, hook: Callable) -> None:
    """Runs a model layer by layer; what the hook returns, if anything, replaces the output."""
    original = keras.layers.Layer.__call__

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = original(layer, *arguments, **options)
        replaced = hook(layer, arguments, output)
        return output if replaced is None else replaced

    with mock.patch.object(keras.layers.Layer, "__call__", call):
        model(x, training=False)
