"""How the Jacobian of contracted points is laid out: which bone moves which point, and dense blocks that waste little.

A leg bone moves no point of the head, so most of a (points x variables) Jacobian is zero. Points are put into a few groups
that share their bones; each group has a small dense block (its points x its bones), whose products run at matrix speed.
All of it is decided once, on the host, from the tables of `body_models.contraction`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from body_models import linear
from body_models.contraction import Contraction, PointLayout

NUM_RIGID = 6
"""Columns before the shape: translation, root rotation vector."""
_GROUP_COST = 200_000.0
"""Cost of one more group, in multiply-adds: a few small kernels."""
_EMBED_COST = 6.0
"""Cost of adding an entry of a group's block to the person's matrix, in multiply-adds."""


class ContractedPoints(Protocol):
    """Points of a body, contracted with its skinning weights."""

    @property
    def contraction(self) -> Contraction:
        """The tables."""
        ...

    @property
    def layout(self) -> PointLayout:
        """Which bones move which points."""
        ...

    @property
    def num_points(self) -> int:
        """How many points."""
        ...


class Pairs(NamedTuple):
    """(point, bone) pairs of a contraction: vertices first, then points of many vertices."""

    point: np.ndarray
    """(Q,) position of the point in the contraction's original order."""
    bone: np.ndarray
    """(Q,) slot of the bone in the tree."""
    weight: np.ndarray
    """(Q,) omega: the regressor's weight that hangs on the bone."""
    vertex: np.ndarray
    """(Qv,) distinct vertex of each of the first Qv pairs."""
    moment: np.ndarray
    """(Q - Qv,) row of `moment_mean` of each of the others."""


@dataclass(frozen=True)
class Group:
    """Points of a few kinds and the free bones that move any of them (static)."""

    bones: tuple[int, ...]
    """Positions in `Layout.bones`."""
    points: tuple[tuple[int, ...], ...]
    """Per kind: positions among the points of that kind."""
    pairs: tuple[int, ...]
    """Pairs (rows of the tables) whose point is in the group."""
    spread: tuple[int, ...]
    """(1 + bones) x points: which cell holds the part of the point that moves with the bone (or, first, with none of them)
    and with no other bone below it; the number of cells stands for nothing."""


@dataclass(frozen=True)
class Layout:
    """Static layout of the Jacobian (hashable).

    Columns of a person: translation 3, root rotation 3, shape S, then three per free bone in the order of `bones`.
    """

    kinds: tuple[int, ...]
    """Number of points of each kind; kinds are consecutive in the contraction."""
    bones: tuple[int, ...]
    """Row of `Variables.pose` of each free bone, in column order."""
    slots: tuple[int, ...]
    """Slot in the bone tree of each free bone."""
    parents: tuple[int, ...]
    """Slot of the parent of each free bone."""
    groups: tuple[Group, ...]
    segments: tuple[tuple[int, int, tuple[int, ...]], ...]
    """Consecutive columns that belong to the same groups: (first column, columns, groups)."""
    pair_bone: tuple[int, ...]
    pair_vertex: tuple[int, ...]
    pair_moment: tuple[int, ...]
    num_shape: int

    @property
    def num_columns(self) -> int:
        """Variables of one person: rigid motion, shape, three per free bone."""
        return NUM_RIGID + self.num_shape + 3 * len(self.bones)

    def columns(self, group: Group) -> np.ndarray:
        """Columns of a group's block."""
        first = NUM_RIGID + self.num_shape
        moved = (first + 3 * np.asarray(group.bones, int)[:, None] + np.arange(3)).ravel()
        return np.concatenate([np.arange(first), moved])


@struct.dataclass
class Plan:
    """Constants of the Jacobian: a pytree beside the contracted points."""

    ancestors: Float[Array, "B B"]
    """1 where the column's bone is the row's bone or above it; tree order."""
    pair_weight: Float[Array, "Q"]
    vertex_weight: Float[Array, "Qv"]
    """`pair_weight` of the pairs of single vertices: what multiplies the vertex."""
    cells: tuple[Float[Array, "cells pairs"], ...]
    """Per group: which pairs make up each cell (see `Group.spread`)."""
    below: tuple[Float[Array, "bones bones_and_root"], ...]
    """Per group: 1 where the column's bone is the row's bone or below it."""
    whole: tuple[Float[Array, "points pairs"], ...]
    """Per group: which pairs make up each point."""
    moved: tuple[Float[Array, "bones points"], ...]
    """Per group: summed regressor weight of the part of a point that hangs below a bone."""
    layout: Layout = struct.field(pytree_node=False)


def make_plan(
    points: ContractedPoints,
    parents: Sequence[int],
    free_bones: Sequence[int],
    kinds: Sequence[int],
    num_shape: int,
) -> Plan:
    """Plan of the Jacobian of all contracted points.

    Args:
      points: the contraction; its points come in the order of the kinds.
      parents: parent of every bone of the model, -1 for the root (bone 0).
      free_bones: rows of the pose (bone - 1) that are variables. Bones that move no point get no columns.
      kinds: how many points there are of each kind (ValueError where they do not add up).
      num_shape: shape variables.
    """
    if sum(kinds) != points.num_points:
        raise ValueError(f"kinds {tuple(kinds)} must add up to the {points.num_points} contracted points")
    pairs = _pairs(points)
    order = np.asarray(points.layout.tree.order)
    slot_of = {int(bone): slot for slot, bone in enumerate(order)}
    ancestors = _ancestors(order, parents, slot_of)
    moving = [row for row in free_bones if row + 1 in slot_of]
    below = np.stack([ancestors[:, slot_of[row + 1]] for row in moving]) > 0  # (free bone, bone)
    linked = np.zeros((sum(kinds), len(moving)), bool)
    np.logical_or.at(linked, pairs.point, below[:, pairs.bone].T)
    members = _group_points(linked, NUM_RIGID + num_shape)
    used = np.stack([linked[group].any(0) for group in members])  # (group, free bone)
    # Bones of the same groups side by side, so that blocks are added in a few slices.
    column_order = sorted(range(len(moving)), key=lambda b: (-used[:, b].sum(), tuple(~used[:, b]), b))
    column_order = [b for b in column_order if used[:, b].any()]
    position = {b: i for i, b in enumerate(column_order)}
    starts = np.cumsum([0, *kinds])
    groups, tables = [], []
    for group, uses in zip(members, used):
        bones = sorted(position[int(b)] for b in np.flatnonzero(uses))
        by_kind = tuple(
            tuple(int(p - low) for p in group if low <= p < high) for low, high in itertools.pairwise(starts)
        )
        chosen = np.flatnonzero(np.isin(pairs.point, group))
        table, spread = _group_tables(pairs, chosen, group, below[[column_order[b] for b in bones]])
        groups.append(Group(tuple(bones), by_kind, tuple(int(q) for q in chosen), spread))
        tables.append(table)
    rows = [moving[b] for b in column_order]
    layout = Layout(
        kinds=tuple(int(k) for k in kinds),
        bones=tuple(rows),
        slots=tuple(slot_of[row + 1] for row in rows),
        parents=tuple(slot_of[int(parents[row + 1])] for row in rows),
        groups=tuple(groups),
        segments=_segments(groups, len(rows), NUM_RIGID + num_shape),
        pair_bone=tuple(int(b) for b in pairs.bone),
        pair_vertex=tuple(int(v) for v in pairs.vertex),
        pair_moment=tuple(int(m) for m in pairs.moment),
        num_shape=num_shape,
    )
    dtype = np.asarray(points.contraction.omega).dtype
    cast = lambda x: linear.on_device(x, dtype)  # noqa: E731
    return Plan(
        ancestors=cast(ancestors),
        pair_weight=cast(pairs.weight),
        vertex_weight=cast(pairs.weight[: len(pairs.vertex)]),
        cells=tuple(cast(t.cells) for t in tables),
        below=tuple(cast(t.below) for t in tables),
        whole=tuple(cast(t.whole) for t in tables),
        moved=tuple(cast(t.moved) for t in tables),
        layout=layout,
    )


class _Tables(NamedTuple):
    cells: np.ndarray
    below: np.ndarray
    whole: np.ndarray
    moved: np.ndarray


def _group_tables(
    pairs: Pairs, chosen: np.ndarray, group: np.ndarray, below: Bool[np.ndarray, "free bone"]
) -> tuple[_Tables, tuple[int, ...]]:
    """Tables of one group (see `Plan`) and its `Group.spread`. `below`: bones of the tree below each of the group's bones."""
    hangs = below[:, pairs.bone[chosen]]  # (free bone of the group, pair)
    # The lowest free bone above a pair is the one with the fewest bones below it.
    size = below.sum(1)
    lowest = np.where(hangs.any(0), np.where(hangs, size[:, None], size.max() + 1).argmin(0) + 1, 0)
    point = np.searchsorted(group, pairs.point[chosen])
    cell_of, which = np.unique(np.stack([lowest, point]), axis=1, return_inverse=True)
    cells = (np.arange(cell_of.shape[1])[:, None] == which.ravel()).astype(np.float64)
    spread = np.full((1 + len(below), len(group)), cell_of.shape[1])
    spread[cell_of[0], cell_of[1]] = np.arange(cell_of.shape[1])
    nested = np.array([[not (b & ~a).any() for b in below] for a in below])  # b's bones are all below a
    whole = (np.arange(len(group))[:, None] == point).astype(np.float64)
    moved = (whole[None] * hangs[:, None]) @ pairs.weight[chosen]
    table = np.concatenate([np.zeros((len(below), 1)), nested], axis=1)
    return _Tables(cells, table, whole, moved), tuple(int(i) for i in spread.ravel())


def _pairs(points: ContractedPoints) -> Pairs:
    contraction = points.contraction
    skin = np.asarray(contraction.vertex_skin, np.float64)
    order = np.asarray(contraction.layout.point_order)  # original point -> position; vertices may serve several points
    vertex_points = np.flatnonzero(order < len(skin))
    point, bone = np.nonzero(skin[order[vertex_points]])
    vertex = order[vertex_points][point]
    original = np.argsort(order, kind="stable")[len(vertex_points) :]  # points of many vertices, in group order
    many_point, many_moment, start, first = [], [], 0, 0
    for members, count in contraction.layout.groups:
        many_point.append(np.tile(original[first : first + members], count))
        many_moment.append(np.arange(start, start + members * count))
        start, first = start + members * count, first + members
    moments = np.concatenate([np.zeros(0, int), *many_moment])
    omega = np.asarray(contraction.omega, np.float64)
    return Pairs(
        point=np.concatenate([vertex_points[point], *many_point]),
        bone=np.concatenate([bone, np.asarray(contraction.layout.pair_bone, int)[moments]]),
        weight=np.concatenate([skin[vertex, bone], omega[moments]]),
        vertex=vertex,
        moment=moments,
    )


def _ancestors(order: np.ndarray, parents: Sequence[int], slot_of: dict[int, int]) -> Float[np.ndarray, "B B"]:
    table = np.zeros((len(order), len(order)))
    for slot, bone in enumerate(order):
        above = int(bone)
        while above >= 0:
            table[slot, slot_of[above]] = 1.0
            above = int(parents[above])
    return table


def _group_points(linked: Bool[np.ndarray, "point bone"], rigid: int) -> list[Int[np.ndarray, "members"]]:
    """Merge points while that makes the blocks cheaper: greedy from the distinct sets of bones."""
    patterns, which = np.unique(linked, axis=0, return_inverse=True)
    sets = patterns.astype(int)
    members = [np.flatnonzero(which.ravel() == i) for i in range(len(patterns))]

    def cost(bones: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return (rigid + 3 * bones) ** 2 * (2.0 * counts + _EMBED_COST) + _GROUP_COST

    while len(sets) > 1:
        bones, counts = sets.sum(1), np.array([len(own) for own in members])
        apart = cost(bones, counts)
        together = cost(bones[:, None] + bones - sets @ sets.T, counts[:, None] + counts)
        gain = np.tril(apart[:, None] + apart - together, -1)
        i, j = np.unravel_index(gain.argmax(), gain.shape)
        if gain[i, j] <= 0.0:
            break
        sets[j] |= sets[i]
        members[j] = np.sort(np.concatenate([members[j], members[i]]))
        sets = np.delete(sets, i, axis=0)
        del members[i]
    return members


def _segments(groups: list[Group], num_bones: int, rigid: int) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    segments = [(0, rigid, tuple(range(len(groups))))]
    for bone in range(num_bones):
        owners = tuple(g for g, group in enumerate(groups) if bone in group.bones)
        start, size, last = segments[-1]
        if owners == last and start > 0:
            segments[-1] = (start, size + 3, last)
        else:
            segments.append((rigid + 3 * bone, 3, owners))
    return tuple(segments)
