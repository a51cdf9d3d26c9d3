"""Binary glTF 2.0 from arrays: a tree of JSON and one buffer. Knows the container, not what is in it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

_COMPONENTS = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}
_TYPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
VERTEX_DATA, INDICES = 34962, 34963
"""Targets of buffer views."""


class GlbWriter:
    """Collects the parts of a file. Every `add_` method returns the index by which other parts refer to the new one."""

    def __init__(self, generator: str) -> None:
        self.tree: dict[str, Any] = {"asset": {"version": "2.0", "generator": generator}}
        self._buffer = bytearray()

    def add(self, kind: str, entry: dict[str, Any]) -> int:
        """A part of any kind: `nodes`, `meshes`, `skins`, `materials`, ..."""
        entries = self.tree.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def add_array(self, array: np.ndarray, target: int | None = None, *, normalized: bool = False) -> int:
        """An accessor of an array (n, *item): float32, uint8, uint16 or uint32; items () to (4,), or matrices (4, 4).

        Matrices are given in rows and stored in columns, as the format wants them. uint8 items must fill four bytes.
        """
        array = np.ascontiguousarray(np.swapaxes(array, 1, 2) if array.ndim == 3 else array)
        accessor = {
            "bufferView": self._view(array.tobytes(), target),
            "componentType": _COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": _TYPES[array.shape[1:]],
        }
        if normalized:
            accessor["normalized"] = True
        if array.ndim == 2 and array.dtype == np.float32:
            accessor["min"], accessor["max"] = array.min(0).tolist(), array.max(0).tolist()
        return self.add("accessors", accessor)

    def add_image(self, content: bytes, mime_type: str, name: str) -> int:
        """An encoded picture."""
        return self.add("images", {"bufferView": self._view(content, None), "mimeType": mime_type, "name": name})

    def use(self, extension: str) -> None:
        """Names an extension that the file uses and readers may ignore."""
        used = self.tree.setdefault("extensionsUsed", [])
        if extension not in used:
            used.append(extension)

    def _view(self, content: bytes, target: int | None) -> int:
        view: dict[str, int] = {"buffer": 0, "byteOffset": len(self._buffer), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        self._buffer += content + bytes(-len(content) % 4)
        return self.add("bufferViews", view)

    def content(self) -> bytes:
        """The file."""
        tree = {**self.tree, "buffers": [{"byteLength": len(self._buffer)}]} if self._buffer else self.tree
        text = json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        if self._buffer:
            chunks += struct.pack("<II", len(self._buffer), 0x004E4942) + bytes(self._buffer)
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
