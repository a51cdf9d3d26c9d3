"""SMPL-X as the fit takes it: points that correspond to Anny's; limits, postures and priors of Anny's bones carried over."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.conversion.closest_points import closest_points
from annyfit_jax.conversion.convertible import convertible_anny, convertible_smplx
from annyfit_jax.conversion.pairing import Laid, lay
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody, free_bones, smplx_body
from annyfit_jax.fit.second_order import map_body as anny_map_body
from annyfit_jax.fit.second_order.linear_plan import make_plan
from annyfit_jax.fit.second_order.map_body import MapBody, MapLayout, PosePrior, pose_prior_arrays
from annyfit_jax.people import anatomy, dense_points
from annyfit_jax.people.anthropometry import mean_height_phenotypes
from annyfit_jax.people.scene import COCO17
from annyfit_jax.smplx_fit import smplx_jacobian
from annyfit_jax.smplx_fit.bone_frames import BoneFrames, bone_frames
from annyfit_jax.smplx_fit.smplx_jacobian import framed
from body_models import anny, body_pairs, linear, smplx
from body_models.batching import AnyArray

_LEAST_SPREAD = 0.02
"""Added to the mixture's spread of every joint, radians: where the frames of two bodies agree only so far."""


@dataclass(frozen=True)
class Laying:
    """A SMPL-X model laid upon Anny: all that is carried from one to the other."""

    anny_model: anny.AnnyModel
    model: smplx.SmplxModel
    laid: Laid
    frames: BoneFrames

    @functools.cached_property
    def known(self) -> Retargeted:
        """What is known of Anny's bones, of this body's joints."""
        return retargeted(self.anny_model, self.frames)

    @functools.cached_property
    def dense(self) -> Float[np.ndarray, "138 point"]:
        """This body's `corresponding_points`."""
        return corresponding_points(self)

    def start_sd(self, config: FitConfig) -> Float[np.ndarray, "J"]:
        """Error of each joint's rotation where the start is a feed-forward estimate, radians per axis."""
        bones = [anny_map_body.pose_sd(name, config) for name in self.anny_model.labels.bones[1:]]
        return np.array([_together(path, bones) for path in self.frames.paths])


class Retargeted(NamedTuple):
    """What is known of Anny's bones, of the 54 joints of SMPL-X after the pelvis."""

    limit_axes: Float[np.ndarray, "J 3 3"]
    """Rows are axes in the frame of the joint's bone."""
    limit_low: Float[np.ndarray, "J 3"]
    """Minus infinity where there is no limit."""
    limit_high: Float[np.ndarray, "J 3"]
    relaxed: Float[np.ndarray, "J 3"]
    spread: Float[np.ndarray, "J"]
    """Over everyday poses, radians."""


def lay_upon_anny(anny_model: anny.AnnyModel, model: smplx.SmplxModel) -> Laying:
    """Lays the body upon Anny; half a minute of processor time, compiling included.

    Raises ValueError where the joints of the model's file hang together otherwise than SMPL-X's.
    """
    with jax.default_matmul_precision("highest"):
        body = convertible_anny(anny_model)
        laid = lay(body, convertible_smplx(model))
    frames = bone_frames(body, laid)
    if tuple(frames.parents) != model.labels.parents[1:]:
        raise ValueError(f"{model.labels.asset_version}: kintree_table is not that of SMPL-X's 55 joints")
    return Laying(anny_model, model, laid, frames)


def retargeted(anny_model: anny.AnnyModel, frames: BoneFrames) -> Retargeted:
    """Limits, relaxed pose and spreads of the joints. Where several bones make one joint, ranges and variances add up."""
    bones, axes, ranges = anatomy.joint_axes(anny_model)
    known = {bone - 1: (a, r) for bone, a, r in zip(bones, axes, ranges, strict=True)}
    count = len(frames.paths)
    limit_axes, low, high = np.zeros((count, 3, 3)), np.full((count, 3), -np.inf), np.full((count, 3), np.inf)
    for joint, path in enumerate(frames.paths):
        if all(row in known for row in path):
            limit_axes[joint] = known[path[-1]][0]
            low[joint], high[joint] = np.sum([known[row][1] for row in path], axis=0).T
    spread = anatomy.pose_spread(anny_model.labels.bones[1:])
    relaxed = frames.of_anny(anatomy.relaxed_pose(anny_model)[None])[0]
    return Retargeted(limit_axes, low, high, relaxed, np.array([_together(path, spread) for path in frames.paths]))


def _together(path: Sequence[int], sd: Sequence[float] | np.ndarray) -> float:
    """Spread of a joint that stands for several bones."""
    return float(np.linalg.norm([sd[row] for row in path]))


def corresponding_points(laying: Laying) -> Float[np.ndarray, "138 point"]:
    """Weights over the vertices (then joints) of SMPL-X of the 138 dense points, which are vertices of Anny."""
    points = laying.laid.anny[dense_points.dense_vertex_indices()]
    found = closest_points(points, laying.laid.smplx, np.asarray(laying.model.faces))
    regressor = np.zeros((len(points), smplx.NUM_VERTICES + smplx.NUM_JOINTS))
    np.put_along_axis(regressor, found.corners, found.shares, axis=1)
    return regressor


def fit_body_of(laying: Laying, config: FitConfig) -> FitBody:
    """The body of `config`'s objective, with poses in the frames of Anny's bones; what is frozen in Anny is frozen here."""
    names = laying.anny_model.labels.bones[1:]
    free = set(free_bones(names, config.frozen_bones))
    body = smplx_body(laying.model, dataclasses.replace(config, mesh="sampled"), dense_regressor=laying.dense)
    known = laying.known
    limited = np.flatnonzero(np.isfinite(known.limit_low).all(1))
    cast = lambda x: linear.on_device(x, laying.model.dtype)  # noqa: E731
    return dataclasses.replace(
        body,
        points=framed(body.points, laying.frames),
        limit_axes=cast(known.limit_axes[limited].reshape(-1, 3).T),
        limit_low=cast(known.limit_low[limited].ravel()),
        limit_high=cast(known.limit_high[limited].ravel()),
        pose_rest=cast(known.relaxed.T),
        pose_precision=cast(1.0 / known.spread**2),
        layout=dataclasses.replace(
            body.layout,
            free_bones=tuple(j for j, path in enumerate(laying.frames.paths) if free & set(path)),
            limit_bones=tuple(int(joint) for joint in limited.repeat(3)),
            points=smplx_jacobian.place,
        ),
    )


def smplx_map_body(laying: Laying, body: FitBody, config: FitConfig, surface: bool = True) -> MapBody:
    """SMPL-X for the MAP objective, as `second_order.map_body.map_body` of Anny; without a lifter.

    Args:
      body: from `fit_body_of`.
      surface: with the dense points; without them a body serves for scenes of keypoints and words alone.
    """
    model = laying.model
    dense = laying.dense
    regressor = np.asarray(model.keypoint_regressor, np.float64)
    kinds: tuple[int, ...] = (len(COCO17),)
    if surface:
        regressor, kinds = np.concatenate([regressor, dense]), (len(COCO17), len(dense))
    points = framed(smplx.contract(model, regressor), laying.frames)
    num_shape = model.labels.num_betas
    plan = make_plan(points, model.labels.parents, body.layout.free_bones, kinds, num_shape)
    free = np.asarray(plan.layout.bones)
    order = np.asarray(points.layout.tree.order)
    array: Callable[..., Array] = lambda x: linear.on_device(x, model.dtype)  # noqa: E731
    known = laying.known
    template = np.asarray(model.vertices.mean, np.float64)
    vertices, on_dense = smplx.NUM_VERTICES, dense[:, : smplx.NUM_VERTICES]
    normal = anny_map_body.normals(template, np.asarray(model.faces)) @ on_dense.T
    ages, male, female = mean_height_phenotypes()
    return MapBody(
        fit=body,
        points=points,
        plan=plan,
        normals=array(normal / np.linalg.norm(normal, axis=0)),
        normal_skin=array(on_dense @ np.asarray(model.skin, np.float64)[order][:, :vertices].T),
        pose_sd=array(laying.start_sd(config)[free]),
        relaxed_pose=array(known.relaxed[free].T),
        relaxed_sd=array(known.spread[free]),
        limit_axes=array(known.limit_axes[free].transpose(2, 1, 0)),
        limit_low=array(known.limit_low[free].T),
        limit_high=array(known.limit_high[free].T),
        population_age=array(ages),
        population_height=array(np.stack([male, female])),
        pose_prior=_pose_prior(laying, free, array),
        lifter=None,
        layout=MapLayout(
            neighbours=anny_map_body.neighbours(template @ on_dense.T),
            spheres=tuple(tuple(float(w) for w in row) for row in anny_map_body.SPHERES),
            radii=tuple(float(radius) for radius in anny_map_body.RADII),
            keypoint_slots=tuple(int(np.flatnonzero(order == joint)[0]) for joint in keypoint_joints()),
            place=smplx_jacobian.place,
            linearize=smplx_jacobian.linearize,
        ),
    )


def keypoint_joints() -> tuple[int, ...]:
    """Per COCO-17 keypoint the joint of SMPL-X whose bone of Anny carries the keypoint's offset."""
    joints = {bone: joint for joint, bone in body_pairs.ANNY_BONES.items()}
    return tuple(smplx.JOINTS.index(joints[bone]) for bone in anny_map_body.keypoint_bones())


def carried_offsets(laying: Laying, shift: Float[AnyArray, "n 17 3"], height: float) -> Float[np.ndarray, "n 17 3"]:
    """Offsets of keypoints from SMPL-X's own, in the rest axes of its joints, as shares of body height.

    Args:
      shift: offsets from Anny's keypoints in the rest axes of Anny's bones (`map_cues.keypoint_shift`).
      height: of the Anny that the body is laid upon, metres.
    """
    laid = laying.laid
    apart = (laid.anny_keypoints - laid.smplx_keypoints) @ laid.axes.T / height
    turns = laying.frames.turns[list(keypoint_joints())]
    return np.einsum("kij,nkj->nki", turns, np.asarray(shift, np.float64) + apart)


def _pose_prior(laying: Laying, free: np.ndarray, array: Callable) -> PosePrior:
    """The mixture over poses of Anny as one over the free joints: means go along, covariances by the derivative there."""
    asset = pose_prior_arrays()
    names = {name: row for row, name in enumerate(laying.anny_model.labels.bones[1:])}
    rows = np.array([names[str(name)] for name in asset["bones"]])
    rest = anatomy.relaxed_pose(laying.anny_model)
    means, precisions, poses = [], [], []
    for mean, covariance in zip(asset["mean"].astype(np.float64), asset["covariance"].astype(np.float64), strict=True):
        whole = rest.copy()
        whole[rows] = mean.reshape(-1, 3)
        pose = laying.frames.of_anny(whole[None])[0]
        slope = laying.frames.slopes(whole, rows)[free].reshape(3 * len(free), -1)
        spread = slope @ covariance @ slope.T + _LEAST_SPREAD**2 * np.eye(len(slope))
        means.append(pose[free].ravel())
        precisions.append(np.linalg.inv(spread))
        poses.append(pose.T)
    half_log = 0.5 * np.linalg.slogdet(np.stack(precisions))[1]
    return PosePrior(
        mean=array(np.stack(means)),
        precision=array(np.stack(precisions)),
        log_scale=array(half_log - half_log.max()),
        pose=array(np.stack(poses)),
    )
