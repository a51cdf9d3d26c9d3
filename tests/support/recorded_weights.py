"""Parameter values of the recorded networks, made from (seed, name, shape).

The recordings of whole networks store no weights: every tensor of the official network was filled with `tensor` of its
name in the state dict. NumPy guarantees the streams of `RandomState`, so that a test makes the same values. Shapes are
those of PyTorch: (out, in) of a linear layer, (out, in, height, width) of a convolution.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

_TABLE = re.compile(
    r"(label_enc|level_embed|keypoint_embed|_box_embed\.weight|decoder\.hw|cls_token|pos_embed$|mask_token"
    r"|cross_(queries|values)_|pos_embedding)"
)
_SIX_NUMBERS = re.compile(r"^smpl_(pose|hand_pose|jaw)_embed\.\d+\.layers\.2\.bias$")
_HEAD_OF_DECODER = re.compile(r"^transformer\.decoder\.(?=(bbox|pose|class)_(\w+_)?embed\.)")
_SHARED_SIZE_HEAD = re.compile(r"^(pose_hw_embed|pose_hand_hw_embed|pose_face_hw_embed)\.\d+\.")


def uniform(seed: int, name: str, shape: Sequence[int]) -> np.ndarray:
    """Float64 values in -1..1 of this name."""
    stream = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0xFFFFFFFF)
    return stream.uniform(-1.0, 1.0, size=tuple(shape))


def tensor(seed: int, name: str, shape: Sequence[int]) -> np.ndarray:
    """Float32 values of one entry of a state dict; names that share a tensor get the same values."""
    name = _SHARED_SIZE_HEAD.sub(r"\1.0.", _HEAD_OF_DECODER.sub("", name))
    u = uniform(seed, name, shape)
    if name.endswith("running_var"):
        value = 1.0 + 0.3 * u
    elif name.endswith("running_mean"):
        value = 0.1 * u
    elif _SIX_NUMBERS.match(name):
        value = np.tile([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], shape[0] // 6) + 0.1 * u
    elif name.endswith("sampling_offsets.bias"):
        value = 2.0 * u
    elif _TABLE.search(name):
        value = u
    elif name.endswith(".gamma"):  # scale of a layer of the ViT
        value = 0.5 + 0.1 * u
    elif len(shape) == 1 and name.endswith("weight"):  # scale of a normalisation
        value = (0.25 if "bn3" in name else 1.0) * (1.0 + 0.2 * u)
    elif len(shape) <= 1:  # biases
        value = 0.1 * u
    else:
        value = u * np.sqrt(3.0 / np.prod(shape[1:]))
    return np.asarray(value, np.float32)


def fill(seed: int, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A whole state dict."""
    return {name: tensor(seed, name, shape) for name, shape in shapes.items()}
