"""Tensors in safetensors files, read without the package of that name.

A file is the length of its header (8 bytes, little-endian), the header as JSON, and the bytes of all tensors. The header has
`dtype`, `shape` and `data_offsets` for each name, and may have texts under `__metadata__`. The tensors lie one behind the
other, without a gap and without sharing bytes, so that a file never takes more memory than its own size.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from body_models.restricted_pickle import Budget, ForeignFileError, Stream, brief

MAX_HEADER_BYTES = 16 << 20
"""The header of a network with 100 000 tensors takes some 12 MB."""
ELEMENT_TYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "I16": np.dtype("<i2"),
        "I8": np.dtype("i1"),
        "U64": np.dtype("<u8"),
        "U32": np.dtype("<u4"),
        "U16": np.dtype("<u2"),
        "U8": np.dtype("u1"),
        "BOOL": np.dtype("?"),
    }
)
_LENGTH = struct.Struct("<Q")
_MAX_AXES = 32
_JSON_BYTES = 16
"""What a byte of JSON may become as Python objects, estimated from above."""


def is_safetensors(stream: Stream) -> bool:
    """Whether a file starts like one: with a length and a JSON object. The stream stands at its start afterwards."""
    stream.seek(0)
    start = stream.read(_LENGTH.size + 1)
    stream.seek(0)
    return start[_LENGTH.size :] == b"{"


def read_tensors(stream: Stream, size: int, budget: Budget) -> dict[str, np.ndarray]:
    """The tensors of a file of `size` bytes by name, in the stored types. Raises ForeignFileError."""
    stream.seek(0)
    start = stream.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        raise ForeignFileError("safetensors: shorter than the length of its header")
    (length,) = _LENGTH.unpack(start)
    if length > min(MAX_HEADER_BYTES, size - _LENGTH.size):
        raise ForeignFileError(f"safetensors: a header of {length} bytes; at most {MAX_HEADER_BYTES}, and in the file")
    budget.take(_JSON_BYTES * length, length)
    header = _header(stream.read(length))
    header.pop("__metadata__", None)
    room = size - _LENGTH.size - length
    places = {name: _place(name, entry, room) for name, entry in header.items()}
    behind = 0
    for name, (_, _, first, last) in sorted(places.items(), key=lambda item: item[1][2:]):
        if first != behind:
            raise ForeignFileError(f"safetensors: {brief(name)} starts at byte {first}, expected {behind}")
        behind = last
    if behind != room:
        raise ForeignFileError(f"safetensors: {room - behind} bytes behind the last tensor")
    budget.take(room)
    out = {}
    for name, (dtype, shape, first, last) in places.items():
        stream.seek(_LENGTH.size + length + first)
        content = np.frombuffer(bytearray(stream.read(last - first)), np.uint8)
        if dtype.kind == "b" and (content > 1).any():
            raise ForeignFileError(f"safetensors: {brief(name)}: truth values other than 0 and 1")
        out[name] = content.view(dtype).reshape(shape)
    return out


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # of the text, its encoding, its numbers, its depth
        raise ForeignFileError(f"safetensors: the header is no JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise ForeignFileError("safetensors: the header is no JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ForeignFileError("safetensors: a name stands twice in the header")
    return out


def _place(name: str, entry: Any, room: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Element type, shape, first byte and the byte behind the last one, in `room` bytes of data."""
    where = f"safetensors: {brief(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ForeignFileError(f"{where}: expected dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in ELEMENT_TYPES:
        raise ForeignFileError(f"{where}: element type {brief(kind)}; known are {', '.join(ELEMENT_TYPES)}")
    if not _counts(shape) or len(shape) > _MAX_AXES:
        raise ForeignFileError(f"{where}: shape {brief(shape)}")
    if not _counts(offsets) or len(offsets) != 2:
        raise ForeignFileError(f"{where}: data_offsets {brief(offsets)}")
    first, last = offsets
    needed = math.prod(shape) * ELEMENT_TYPES[kind].itemsize
    if not first <= last <= room or last - first != needed:
        raise ForeignFileError(f"{where}: data_offsets {brief(offsets)} of {room} bytes; the shape takes {needed}")
    # NumPy refuses an empty array whose other sides are beyond its integers.
    if math.prod(side for side in shape if side) > 2**48:
        raise ForeignFileError(f"{where}: shape {brief(shape)}")
    return ELEMENT_TYPES[kind], tuple(shape), first, last


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)
