"""One-to-one assignment of true people to queries (Carion et al., "End-to-End Object Detection with Transformers", 2020)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors.aios.aios_model import LayerOutput
from annyfit_jax.regressors.aios.encoder import PERSON
from annyfit_jax.regressors.aios.loss_terms import BODY_SIGMAS, object_keypoint_similarity
from annyfit_jax.regressors.aios.relative_boxes import generalised_iou
from annyfit_jax.regressors.aios.targets import Targets

_ALPHA = 0.25
_LOG_FLOOR = 1e-8
_CLASS_WEIGHT, _L1_WEIGHT, _GIOU_WEIGHT, _JOINT_WEIGHT, _OKS_WEIGHT = 2.0, 5.0, 2.0, 10.0, 4.0
_UNUSABLE = 1e9


def costs(output: LayerOutput, targets: Targets) -> Float[Array, "batch query person"]:
    """Cost of each pair: class and, where the layer has joints, joints and OKS, else boxes (as released)."""
    p = jax.nn.sigmoid(output.logits[..., PERSON])
    positive = _ALPHA * jnp.square(1.0 - p) * -jnp.log(p + _LOG_FLOOR)
    negative = (1.0 - _ALPHA) * jnp.square(p) * -jnp.log(1.0 - p + _LOG_FLOOR)
    total = _CLASS_WEIGHT * (positive - negative)[:, :, None]
    if output.body_joints is None:
        ours, theirs = output.boxes[:, :, None], targets.boxes[:, None]
        total = total + _L1_WEIGHT * jnp.abs(ours - theirs).sum(-1)
        total = total - _GIOU_WEIGHT * generalised_iou(ours, theirs)
    else:
        xy, visible = targets.body_joints[:, None, :, :, :2], targets.body_joints[:, None, :, :, 2]
        ours = output.body_joints[:, :, None]
        area = (targets.boxes[..., 2] * targets.boxes[..., 3])[:, None]
        total = total + _JOINT_WEIGHT * (jnp.abs(ours - xy).sum(-1) * visible).sum(-1)
        similarity = object_keypoint_similarity(ours, xy, visible, area, BODY_SIGMAS)
        total = total + _OKS_WEIGHT * (1.0 - similarity)
    return jnp.where(jnp.isfinite(total), total, _UNUSABLE)


def match(output: LayerOutput, targets: Targets) -> Int[Array, "batch person"]:
    """The query of each person, -1 for people who are not there or for whom no query is left. Not differentiable."""
    cost = jax.lax.stop_gradient(costs(output, targets))
    return jax.vmap(assign)(cost.swapaxes(1, 2), targets.people)


def assign(cost: Float[Array, "person query"], people: Bool[Array, "person"]) -> Int[Array, "person"]:
    """The assignment of least total cost: a query for each person, or -1.

    If there are more people than queries, every query gets a person and the remaining people get -1.
    """
    count, queries = cost.shape
    if count <= queries:
        return _assign_rows(cost, people, jnp.ones(queries, bool))
    crowded = people.sum() > queries
    # Each problem is empty where the other one is posed: rows must find a column.
    everybody = _assign_rows(cost, people & ~crowded, jnp.ones(queries, bool))
    person = _assign_rows(cost.T, jnp.broadcast_to(crowded, (queries,)), people)
    chosen = jnp.full(count, -1, jnp.int32).at[person].set(jnp.arange(queries, dtype=jnp.int32))
    return jnp.where(crowded, chosen, everybody)


class _Search(NamedTuple):
    """State of the search for the shortest augmenting path from one row."""

    row: Array
    """To be scanned next."""
    column: Array
    """Reached last."""
    length: Array
    """Of the path to it."""
    free: Array
    """Whether it ends there."""
    shortest: Array
    """To each column, so far."""
    via: Array
    """Row before each column."""
    rows: Array
    columns: Array
    """Scanned."""


def _assign_rows(
    cost: Float[Array, "row column"], use_row: Bool[Array, "row"], use_column: Bool[Array, "column"]
) -> Int[Array, "row"]:
    """Column of each used row (others -1); there must be enough used columns.

    Shortest augmenting paths (Crouse, "On implementing 2D rectangular assignment algorithms", 2016): each used row in
    turn is joined by a path that is shortest in reduced costs; rows assigned before may change their column.
    """
    rows, columns = cost.shape

    def search(start: Array, u: Array, v: Array, row_of: Array) -> _Search:
        def step(s: _Search) -> _Search:
            reduced = jnp.where(use_column & ~s.columns, s.length + cost[s.row] - u[s.row] - v, jnp.inf)
            better = reduced < s.shortest
            shortest, via = jnp.where(better, reduced, s.shortest), jnp.where(better, s.row, s.via)
            column = jnp.argmin(jnp.where(use_column & ~s.columns, shortest, jnp.inf)).astype(jnp.int32)
            return _Search(
                row_of[column], column, shortest[column], row_of[column] < 0, shortest, via,
                s.rows.at[s.row].set(True), s.columns.at[column].set(True),
            )  # fmt: skip

        nothing = jnp.zeros((), cost.dtype)
        first = _Search(
            start, jnp.int32(0), nothing, ~use_row[start], jnp.full(columns, jnp.inf, cost.dtype),
            jnp.full(columns, -1, jnp.int32), jnp.zeros(rows, bool), jnp.zeros(columns, bool),
        )  # fmt: skip
        return jax.lax.while_loop(lambda s: ~s.free, step, first)

    def add(row: Array, state: tuple) -> tuple:
        u, v, column_of, row_of = state
        row = row.astype(jnp.int32)
        tree = search(row, u, v, row_of)
        others = tree.rows & (jnp.arange(rows) != row)
        u = u + jnp.where(others, tree.length - tree.shortest[column_of], 0.0)
        u = u.at[row].add(jnp.where(use_row[row], tree.length, 0.0))
        v = v - jnp.where(tree.columns, tree.length - tree.shortest, 0.0)

        def turn(path: tuple) -> tuple:
            column, column_of, row_of, _ = path
            before = tree.via[column]
            return column_of[before], column_of.at[before].set(column), row_of.at[column].set(before), before == row

        path = (tree.column, column_of, row_of, ~use_row[row])
        _, column_of, row_of, _ = jax.lax.while_loop(lambda path: ~path[3], turn, path)
        return u, v, column_of, row_of

    state = (
        jnp.zeros(rows, cost.dtype), jnp.zeros(columns, cost.dtype), jnp.full(rows, -1, jnp.int32),
        jnp.full(columns, -1, jnp.int32),
    )  # fmt: skip
    return jax.lax.fori_loop(0, rows, add, state)[2]
