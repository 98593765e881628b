"""Whether docs/porting.md is right about other libraries: widths, and outputs with their weights.

`pip install torch torchvision timm kimm==0.2.5 keras-cv==0.9.0 keras-hub` beside keras_se, then
`python benchmarks/porting.py`. Blocks and networks of these libraries are built with random
weights; the functions that carry the weights over are those of the page. Printed are the largest
differences of outputs, and the widths that differ, which should be none.
"""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from timm.layers import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite

import keras_se
from keras_se.layers.bottleneck import bottleneck_width

PAGE = (Path(__file__).parents[1] / "docs" / "porting.md").read_text()
CHANNELS = (16, 24, 36, 40, 72, 96, 176, 240, 672, 960)
LAYERS = ("fc1", "fc2"), ("conv_reduce", "conv_expand")
LISTS = torch.nn.Sequential, torch.nn.ModuleList  # inside a unit, or around several
SQUEEZE = torchvision.ops.SqueezeExcitation


def functions() -> dict[str, Callable[..., Any]]:
    """The functions of the page that carry weights over."""
    names: dict[str, Any] = {"np": np, "keras_se": keras_se}
    for source in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if "\ndef from_torch" in source or "\ndef with_normalization" in source:
            exec(source, names)  # noqa: S102
    return names


def rows() -> dict[str, str]:
    """The last cell of the first table, by library."""
    lines = PAGE.split("\n| library", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {row[0]: row[-1].strip("`") for row in cells}


def width_of(library: str, channels: int, expansion: int = 1, units: int = 0) -> int:
    """The width of the block that the page calls the same."""
    names = {"C": channels, "e": expansion, "squeeze_channels": units}
    block = eval(rows()[library], {"SEBlock": keras_se.SEBlock, **names})  # noqa: S307
    return bottleneck_width(channels, block.ratio, width=block.width, divisor=block.divisor)


def torch_layers(module: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The two layers of a block."""
    first, second = next(names for names in LAYERS if hasattr(module, names[0]))
    return getattr(module, first), getattr(module, second)


def arrays(module: torch.nn.Module) -> list[np.ndarray | None]:
    """W1, b1, W2, b2 of a block."""
    parts = [part for layer in torch_layers(module) for part in (layer.weight, layer.bias)]
    return [None if part is None else part.detach().numpy() for part in parts]


def torch_difference(module: torch.nn.Module, carry: Callable[..., Any], **arguments: Any) -> float:
    """The largest difference of the outputs of a block and of the one with its weights."""
    module.eval()
    weights = arrays(module)
    normalization = getattr(module, "bn", None)
    if isinstance(normalization, torch.nn.BatchNorm2d):
        for part in (normalization.weight, normalization.bias):
            torch.nn.init.uniform_(part, 0.5, 2.0)
        torch.nn.init.uniform_(normalization.running_mean, -1.0, 1.0)
        torch.nn.init.uniform_(normalization.running_var, 0.5, 2.0)
        state = normalization.state_dict()
        names = ("weight", "bias", "running_mean", "running_var")
        found = [state[name].numpy() for name in names]
        weights[:2] = functions()["with_normalization"](*weights[:2], *found, normalization.eps)
    x = np.random.default_rng(0).normal(size=(4, weights[0].shape[1], 8, 8)).astype("float32")
    with torch.no_grad():
        wanted = module(torch.from_numpy(4 * x)).numpy().transpose(0, 2, 3, 1)
    block = carry(*weights, **arguments)
    return float(np.abs(block(4 * x.transpose(0, 2, 3, 1)) - wanted).max())


def torch_blocks() -> Iterator[tuple[str, float]]:
    """Blocks of torchvision and timm, with the difference of the outputs."""
    carry, silu = functions()["from_torch"], torch.nn.SiLU
    hard, bn = torch.nn.Hardsigmoid, torch.nn.BatchNorm2d
    cases = {
        "torchvision SqueezeExcitation": (SQUEEZE(64, 16), {}),
        "torchvision, hard sigmoid": (
            SQUEEZE(64, 16, scale_activation=hard),
            {"gate": "hard_sigmoid"},
        ),
        "torchvision, SiLU": (SQUEEZE(64, 16, activation=silu), {"activation": "silu"}),
        "torchvision, square": (SQUEEZE(16, 16), {}),
        "timm SEModule": (SEModule(64), {}),
        "timm SEModule, no bias": (SEModule(64, bias=False), {}),
        "timm SEModule, add_maxpool": (SEModule(64, add_maxpool=True), {"squeeze": "avg_max"}),
        "timm SEModule, BatchNorm2d": (SEModule(64, norm_layer=bn), {}),
        "timm SqueezeExcite": (
            SqueezeExcite(64, act_layer=silu, gate_layer="hard_sigmoid"),
            {"activation": "silu", "gate": "hard_sigmoid"},
        ),
    }
    for name, (module, arguments) in cases.items():
        yield name, torch_difference(module, carry, **arguments)


def torch_widths() -> Iterator[tuple[str, int, int]]:
    """Blocks and networks of torch: name, number of widths compared, number that differ."""
    found = {"timm `SEModule`, `SqueezeExcite`": [(c, 1, SEModule(c)) for c in CHANNELS]}
    networks = {
        "torchvision MobileNetV3": ["mobilenet_v3_small", "mobilenet_v3_large"],
        "torchvision EfficientNet": ["efficientnet_b0", "efficientnet_v2_s"],
        "timm MobileNetV3": ["mobilenetv3_small_100", "mobilenetv3_large_100"],
        "timm EfficientNet": ["efficientnet_b0", "efficientnet_b2"],
    }
    for library, names in networks.items():
        make = timm.create_model if library.startswith("timm") else torchvision.models.get_model
        found[library] = [part for name in names for part in _blocks(make(name))]
    for library, blocks in found.items():
        wrong = 0
        for channels, expansion, module in blocks:
            units = torch_layers(module)[0].weight.shape[0]
            wrong += width_of(library, channels, expansion) != units
        yield library, len(blocks), wrong


def _blocks(network: torch.nn.Module) -> Iterator[tuple[int, int, torch.nn.Module]]:
    """C, e and the module of each block: what comes in is what the unit's first layer takes."""
    for unit in network.modules():
        own = [part for part in unit.modules() if isinstance(part, (SQUEEZE, SqueezeExcite))]
        # The smallest unit around a block: of one block, with convolutions beside it.
        if len(own) == 1 and unit is not own[0] and not isinstance(unit, LISTS):
            first = next(part for part in unit.modules() if isinstance(part, torch.nn.Conv2d))
            channels = torch_layers(own[0])[0].weight.shape[1]
            yield channels, channels // (first.weight.shape[1] * first.groups), own[0]


def hub_mobilenet() -> keras.Model:
    """A small MobileNet of KerasHub with one ratio everywhere."""
    return import_module("keras_hub").models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [72, 144, 176]],
        stackwise_num_blocks=[2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1]],
        stackwise_se_ratio=[[0.25] * 2, [0.25] * 3],
        stackwise_activation=[["relu"] * 2, ["hard_swish"] * 3],
        stackwise_padding=[[1, 1], [2, 2, 2]],
        output_num_filters=144,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        image_shape=(32, 32, 3),
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=144,
        squeeze_and_excite=0.25,
    )


def keras_networks() -> Iterator[tuple[str, keras.Model]]:
    """SE of packages for Keras, in networks."""
    layer = import_module("keras_cv").layers.SqueezeAndExcite2D
    block = import_module("kimm").blocks.apply_se_block
    for channels in CHANNELS:
        x = keras.Input((8, 8, channels))
        yield "KerasCV `SqueezeAndExcite2D`", keras.Model(x, layer(channels)(x))
        yield "kimm `apply_se_block`", keras.Model(x, block(x))
    yield "KerasHub MobileNet", hub_mobilenet()


def keras_widths() -> Iterator[tuple[str, int, int, float]]:
    """As `torch_widths`, with the largest difference once adopted, over the outputs' spread."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for library, network in keras_networks():
        sites = keras_se.find_sites(network)
        wrong = sum(width_of(library, site.channels) != site.width for site in sites)
        x = np.random.default_rng(0).normal(size=(2, *network.inputs[0].shape[1:]))
        outputs = keras.ops.convert_to_numpy(network(x, training=False))
        difference = np.abs(keras_se.adopt(network)(x) - outputs).max() / outputs.std()
        found.setdefault(library, []).append((len(sites), wrong, float(difference)))
    for library, measured in found.items():
        counts, wrongs, differences = zip(*measured, strict=True)
        yield library, sum(counts), sum(wrongs), max(differences)


def main() -> None:
    """Prints the tables."""
    packages = ("keras", "torch", "torchvision", "timm", "keras-cv", "keras-hub", "kimm")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    torch.manual_seed(0)
    outputs = Table("block", "largest difference of outputs")
    for name, difference in torch_blocks():
        outputs.add_row(name, f"{difference:.1e}")
    widths = Table("library", "widths compared", "that differ", "adopted, off by")
    for library, count, wrong in torch_widths():
        widths.add_row(library, str(count), str(wrong), "")
    for library, count, wrong, difference in keras_widths():
        widths.add_row(library, str(count), str(wrong), f"{difference:.1e}")
    Console(width=100).print(outputs, widths)
    shapes = [tuple(part.shape) for part in EffectiveSEModule(16).parameters()]
    print(f"EffectiveSEModule(16) has the weights {shapes}")


if __name__ == "__main__":
    main()
