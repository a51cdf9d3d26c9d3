"""Frozen convolutional networks: one file with graph and weights, run by JAX.

A file is an `.npz`: `graph` is JSON text, `high` and `low` are the high and the low bytes of all weights as float16 (kept
apart because they deflate better so). `experiments.builders.build_networks` makes the files from the networks' public
releases.

A graph is a list of nodes. Values are numbered: first the inputs, then the weights, then what each node puts out. All
activations are (batch, height, width, channels) or (batch, features), so that a graph runs on any number of pictures.

| op | inputs | attributes |
| --- | --- | --- |
| `conv`, `depthwise` | x, kernel (h, w, in, out) or (h, w, channels), bias or nothing | strides, padding, activation |
| `dense` | x, matrix, bias or nothing | activation |
| `add` | x, y | activation |
| `activate` | x | activation: relu, relu6, leaky (with slope), sigmoid |
| `scale` | x | factor, offset: x * factor + offset |
| `prelu` | x, slopes | |
| `pad` | x | widths per axis |
| `pool` | x | window, strides, padding: the maximum |
| `mean` | x | over height and width |
| `resize` | x | size: bilinear, centres of pixels at halves |
| `concat` | x, y, ... | of channels |
| `flatten` | x | to (batch, features) |
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.npz import open_npz

FORMAT = 1
_WEIGHTS = "weights"
"""Folder of the bundled files, below this package."""
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True, eq=False)
class Graph:
    """What a network computes; the weights are kept apart, as an argument of the compiled program."""

    name: str
    source: str
    """Package, file and licence that the weights come from."""
    input_shape: tuple[int, int, int]
    """(height, width, channels) of a picture."""
    outputs: tuple[tuple[str, int], ...]
    """(name, value)."""
    nodes: tuple[Mapping[str, Any], ...]
    num_weights: int


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its weights."""

    graph: Graph
    weights: tuple[Float[np.ndarray, "..."], ...]
    """float32."""

    def __call__(self, pictures: Float[Array, "batch height width channels"]) -> dict[str, Array]:
        """Outputs by name for a batch of pictures, float32; traceable, with the weights as constants."""
        return run(self.graph, self.weights, pictures)


@functools.cache
def bundled(name: str) -> Network:
    """The network of that name that comes with the installation. Raises SceneError where there is none."""
    resource = importlib.resources.files("experts.networks") / _WEIGHTS / f"{name}.npz"
    with importlib.resources.as_file(resource) as path:
        if not path.is_file():
            raise SceneError(
                f"{path}: no such network; make it with `python -m experiments.builders.build_networks --package=FOLDER`"
            )
        return load(path)


def load(path: str | Path) -> Network:
    """Reads a file of the builder. Raises SceneError on anything else."""
    with open_npz(str(path)) as npz:
        try:
            content = json.loads(npz.read("graph").tobytes().decode())
            if content["format"] != FORMAT:
                raise SceneError(f"{path}: format {content['format']}, expected {FORMAT}")
            high, low = npz.read("high"), npz.read("low")
            halves = (high.astype(np.uint16) << 8 | low).view(np.float16).astype(np.float32)
            shapes = [tuple(shape) for shape in content["weights"]]
            ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
            if len(halves) != ends[-1]:
                raise SceneError(f"{path}: {len(halves)} weights, expected {ends[-1]}")
            weights = [part.reshape(shape) for part, shape in zip(np.split(halves, ends[:-1]), shapes, strict=True)]
            graph = Graph(
                content["name"], content["source"], tuple(content["input"]), tuple(map(tuple, content["outputs"])),
                tuple(content["nodes"]), len(weights),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SceneError(f"{path}: not a network of this format ({type(error).__name__}: {error})") from error
    return Network(graph, tuple(weights))


def run(graph: Graph, weights: Sequence[Array | np.ndarray], pictures: Array) -> dict[str, Array]:
    """Outputs by name. Raises ValueError where the pictures have another size than the network's."""
    if pictures.shape[1:] != graph.input_shape:
        raise ValueError(f"{graph.name}: expected pictures (batch, *{graph.input_shape}), got {pictures.shape}")
    values: list[Any] = [pictures.astype(jnp.float32), *weights]
    for node in graph.nodes:
        values.append(_OPS[node["op"]](node, *(values[i] for i in node["inputs"])))
    return {name: values[i] for name, i in graph.outputs}


def _conv(node: Mapping[str, Any], x: Array, kernel: Array, bias: Array | float = 0.0) -> Array:
    if kernel.shape[:2] == (1, 1) and tuple(node["strides"]) == (1, 1):  # on CPUs faster than as a convolution
        return _dense(node, x, kernel[0, 0], bias)
    y = lax.conv_general_dilated(
        x, kernel, node["strides"], _padding(node), dimension_numbers=_LAYOUT, precision=lax.Precision.HIGHEST
    )
    return _activate(node, y + bias)


def _depthwise(node: Mapping[str, Any], x: Array, kernel: Array, bias: Array | float = 0.0) -> Array:
    """As a sum of shifted products: XLA's own grouped convolution is many times slower on CPUs."""
    strides, rows, columns = node["strides"], *kernel.shape[:2]
    pads = _padding(node)
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[1:3], (rows, columns), strides, pads)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], (rows, columns), strides, strict=True))
    total = bias
    for i in range(rows):
        for j in range(columns):
            part = lax.slice(
                x,
                (0, i, j, 0),
                (x.shape[0], i + (height - 1) * strides[0] + 1, j + (width - 1) * strides[1] + 1, x.shape[3]),
                (1, *strides, 1),
            )
            total = total + part * kernel[i, j]
    return _activate(node, jnp.asarray(total))


def _dense(node: Mapping[str, Any], x: Array, matrix: Array, bias: Array | float = 0.0) -> Array:
    return _activate(node, jnp.matmul(x, matrix, precision=lax.Precision.HIGHEST) + bias)


def _pool(node: Mapping[str, Any], x: Array) -> Array:
    pads = _padding(node)
    pads = pads if isinstance(pads, str) else [(0, 0), *pads, (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *node["window"], 1), (1, *node["strides"], 1), pads)


def _resize(node: Mapping[str, Any], x: Array) -> Array:
    for axis, wanted in ((1, node["size"][0]), (2, node["size"][1])):
        low, high, share = _neighbours(x.shape[axis], wanted)
        share = share.reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        x = jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share
    return x


def _neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two samples that each wanted sample lies between, and the share of the second."""
    position = np.clip((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.int32)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)


def _padding(node: Mapping[str, Any]) -> Any:
    pads = node["padding"]
    return pads if isinstance(pads, str) else [tuple(pair) for pair in pads]


def _activate(node: Mapping[str, Any], x: Array) -> Array:
    match node.get("activation"):
        case None:
            return x
        case "relu":
            return jnp.maximum(x, 0.0)
        case "relu6":
            return jnp.clip(x, 0.0, 6.0)
        case "leaky":
            return jnp.where(x >= 0, x, node["slope"] * x)
        case "sigmoid":
            return jax.nn.sigmoid(x)
        case other:
            raise ValueError(f"unknown activation {other!r}")


_OPS = {
    "conv": _conv,
    "depthwise": _depthwise,
    "dense": _dense,
    "pool": _pool,
    "resize": _resize,
    "add": lambda node, x, y: _activate(node, x + y),
    "activate": _activate,
    "scale": lambda node, x: x * node["factor"] + node["offset"],
    "prelu": lambda node, x, slopes: jnp.where(x >= 0, x, x * slopes),
    "pad": lambda node, x: jnp.pad(x, node["widths"]),
    "mean": lambda node, x: x.mean((1, 2)),
    "concat": lambda node, *xs: jnp.concatenate(xs, -1),
    "flatten": lambda node, x: x.reshape(len(x), -1),
}
