"""A `Fitter` whose fits have SMPL-X beside Anny: Anny first, with everything the config has, then SMPL-X to the same cues.

fitter = SmplxFitter(config, SmplxChoice("SMPLX_NEUTRAL.npz"))
for fit in fitter.fit(scenes): fit_files.save(fit.smplx, ...)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from annyfit_jax.fit import adam, second_order
from annyfit_jax.fit import problem as problems
from annyfit_jax.fit.config import FitConfig, MapObjective
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.fitter import (
    CAMERA,
    PART_FIELDS,
    Device,
    Fitter,
    PendingBatch,
    compiler_options,
    each_list,
)
from annyfit_jax.fit.packing import Capacity
from annyfit_jax.fit.parts import part_cues
from annyfit_jax.fit.parts.part_body import PartsBody
from annyfit_jax.fit.parts.part_fit import PartsFit
from annyfit_jax.fit.problem import AnyArray, Problem, Variables
from annyfit_jax.fit.second_order import hypotheses, uncertainty
from annyfit_jax.fit.second_order.columns import DEPTH_SCALE, FOCAL, NUM_SCENE, ROLL, pack, unpack
from annyfit_jax.fit.second_order.costs.base import Reference
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.fit.second_order.map_cues import FIXED, MapCues, assemble_cues
from annyfit_jax.fit.second_order.map_objective import Context
from annyfit_jax.fit.second_order.solve import reprojection_error, search
from annyfit_jax.fit.second_order.uncertainty import Uncertainty
from annyfit_jax.people.fitted import FACTS, PARTS, SceneFit
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.smplx_fit.smplx_map_body import (
    Laying,
    carried_offsets,
    fit_body_of,
    lay_upon_anny,
    smplx_map_body,
)
from annyfit_jax.smplx_fit.smplx_part_body import smplx_parts_body
from annyfit_jax.smplx_fit.smplx_start import SmplxStart, SmplxStarter, with_expected_heights
from annyfit_jax.store.mirrors import local
from body_models import anny, smplx, smplx_file


@dataclass(frozen=True)
class SmplxChoice:
    """Which SMPL-X is fitted."""

    body_file: str
    """The user's `SMPLX_NEUTRAL.npz` or another official file; it and the next may be in a bucket."""
    num_betas: int = 10
    kid_template: str = ""
    """AGORA's file, for a blend with a child as the last beta; without it children are not fitted."""

    def identity(self) -> dict[str, Any]:
        """What decides the fits, JSON. Raises FileNotFoundError where a file is not there."""
        here = self.fetched()
        smplx_file.check_exists(Path(here.body_file).expanduser())
        named = {"body_file": here.body_file} | ({"kid_template": here.kid_template} if here.kid_template else {})
        contents = {
            name: hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16] for name, path in named.items()
        }
        return {"body": "smplx", "num_betas": self.num_betas, **contents}

    def fetched(self) -> SmplxChoice:
        """With local files, where they are in buckets; every machine fetches for itself. Raises FileNotFoundError."""
        return dataclasses.replace(self, body_file=local(self.body_file), kid_template=local(self.kid_template))

    def read(self) -> smplx.SmplxModel:
        """The model. Raises as `smplx.load`."""
        here = self.fetched()
        return smplx.load(here.body_file, num_betas=self.num_betas, kid_template=here.kid_template or None)


@dataclass
class BothBodies(SceneFit):
    """The fit of Anny, which it is as far as everybody else is concerned, and that of SMPL-X."""

    smplx: SceneFit | None = None


class Begin(NamedTuple):
    """What a list begins with. N people, J = 54 joints, S betas, G scenes; poses in the frames of Anny's bones."""

    variables: Variables
    prior: Variables
    """Means of the Gaussians."""
    precision: Variables
    reading: Int[AnyArray, "N"]
    scene: Float[AnyArray, "G q"]
    """Unknowns of the scenes, NaN where Anny's fit has none."""
    roll_mode: Float[AnyArray, "G"]
    """NaN where it is not known."""


class SmplxFit(NamedTuple):
    """Outcome of a list."""

    variables: Variables
    reprojection_px: Float[Array, "N"]
    start_reprojection_px: Float[Array, "N"]
    keypoints: Float[Array, "3 17 N"]
    """SMPL-X's own, camera axes, metres."""
    height: Float[Array, "N"]
    converged: Float[Array, "N"]
    visible_depth: Float[Array, "N"]
    uncertainty: Uncertainty
    """Not calibrated."""
    camera: Float[Array, "q N"]
    """Unknowns of each person's scene, roll from upright."""
    parts: PartsFit | None = None
    """Hands, head and feet after the body; None where nobody shows any."""


def solve_map(config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, begin: Begin) -> SmplxFit:
    """The MAP objective from a start that is near: the second half of the iterations. Not compiled.

    Args:
      config: from `config_for_smplx`.
    """
    layout, schedule = body.plan.layout, config.lm
    variables = Variables(*(jnp.asarray(v) for v in begin.variables))
    x = pack(layout, variables)
    reference = Reference(pack(layout, begin.prior), pack(layout, begin.precision))
    place = functools.partial(body.layout.place, body.points)
    begun = place(variables.shape, variables.root_rotvec, variables.pose, variables.transl)[:, :17]
    mode = jnp.asarray(begin.roll_mode)
    mode = jnp.where(jnp.isfinite(mode), mode, hypotheses.roll_of_bodies(config.map, problem, cues, begun))
    scene_x = jnp.where(jnp.isfinite(begin.scene), begin.scene, cues.scene_mean)
    # One photo, one camera: its focal length is the one that the fit of Anny has found.
    cues = cues._replace(
        scene_mean=jnp.asarray(cues.scene_mean).at[:, FOCAL].set(scene_x[:, FOCAL]),
        scene_precision=jnp.asarray(cues.scene_precision).at[:, FOCAL].set(FIXED),
    )
    context = Context(body, hypotheses.read(problem, jnp.asarray(begin.reading)), cues, reference, variables)
    iterations = schedule.rounds * schedule.iterations
    span = (schedule.rounds // 2 * schedule.iterations, iterations + 1)
    end = search(config, context, x, scene_x, mode, span)
    final = unpack(layout, end.state.x, variables)
    sd, visible = end.report
    shift = end.memory.frozen.keypoint_shift
    camera = end.state.scene_x[problem.scene].T
    error = functools.partial(reprojection_error, config, context.problem)
    return SmplxFit(
        variables=final,
        reprojection_px=error(end.memory.keypoints + shift, camera[FOCAL]),
        start_reprojection_px=error(begun + shift, camera[FOCAL]),
        keypoints=end.memory.keypoints,
        height=body.fit.height(final.shape),
        converged=(end.state.promised < schedule.converged_nats).astype(x.dtype),
        visible_depth=visible,
        uncertainty=sd,
        camera=camera.at[ROLL].add(mode[problem.scene]),
    )


def solve_adam(config: FitConfig, body: FitBody, problem: Problem, cues: MapCues, begin: Begin) -> SmplxFit:
    """The stages of Adam over SMPL-X. Not compiled."""
    out = adam.solve(config, body, problem, Variables(*(jnp.asarray(v) for v in begin.variables)))
    unknown = jnp.full_like(out.height, jnp.nan)
    return SmplxFit(
        variables=out.variables._replace(pose=jnp.clip(out.variables.pose, -body.pose_limit, body.pose_limit)),
        reprojection_px=out.reprojection_px,
        start_reprojection_px=out.start_reprojection_px,
        keypoints=out.keypoints,
        height=out.height,
        converged=unknown,
        visible_depth=unknown,
        uncertainty=Uncertainty(unknown, unknown, jnp.broadcast_to(unknown, (17, len(unknown)))),
        camera=jnp.full((NUM_SCENE, len(unknown)), jnp.nan),
    )


def config_for_smplx(config: FitConfig) -> FitConfig:
    """The config as SMPL-X takes it: age and sex are Anny's, and come in as the height to be expected.

    Raises ValueError for the released objective by the second-order solver, which is written for Anny's phenotypes.
    """
    if config.solver == "lm" and config.lm.objective != "map":
        raise ValueError("--body=smplx: lm.objective='released' is for Anny; take lm.objective='map' or solver='adam'")
    objective: MapObjective = dataclasses.replace(config.map, class_words=False, anthropometry=False, known_facts=True)
    schedule = dataclasses.replace(config.lm, rounds=2 * config.lm.rounds)
    return dataclasses.replace(config, map=objective, lm=schedule, mesh="sampled")


class SmplxFitter(Fitter):
    """Fits Anny, then SMPL-X. Its fits are `BothBodies`."""

    def __init__(
        self,
        config: FitConfig,
        choice: SmplxChoice,
        model: anny.AnnyModel | None = None,
        devices: Sequence[Device] | None = None,
        *,
        smplx_config: FitConfig | None = None,
        laying: Laying | None = None,
    ) -> None:
        """Reads the file and lays the body upon Anny.

        Args:
          smplx_config: of the fit of SMPL-X, by the same solver; default `config_for_smplx` of the config.
          laying: of the same choice and model, where it is there already.

        Raises FileNotFoundError, ValueError as `smplx.load`, ValueError for a config that is not for SMPL-X.
        """
        super().__init__(config, model, devices)
        self.smplx_config = smplx_config or config_for_smplx(config)
        if laying is None:
            read = choice.read()
            logging.info("laying SMPL-X upon Anny ...")
            laying = lay_upon_anny(self.model, read)
        self.laying = laying
        self._fit_body = fit_body_of(self.laying, self.smplx_config)
        self._map_bodies: dict[bool, MapBody] = {}
        self._smplx_starter = SmplxStarter(self.laying, self.body, self._fit_body, self.smplx_config)
        self._laid_height = float(np.ptp(self.laying.laid.anny[:, 1]))

    def collect(self, pending: PendingBatch) -> list[SceneFit]:
        """As `Fitter.collect`, with SMPL-X beside."""
        fits = super().collect(pending)
        begun = [self._smplx_starter(ready, fit) for ready, fit in zip(pending.batch, fits, strict=True)]
        made: list[SceneFit] = [self._nobody(fit) for fit in fits]
        held = {i: start for i, start in enumerate(begun) if start is not None}
        if held:
            found = self._solve(list(held.values()))
            for (i, start), outcome in zip(held.items(), found, strict=True):
                made[i] = self._smplx_fit(made[i], fits[i], start, outcome)
        values = [{f.name: getattr(fit, f.name) for f in dataclasses.fields(fit)} for fit in fits]
        return [BothBodies(**own, smplx=other) for own, other in zip(values, made, strict=True)]

    # -------------------------------------------------------------------------------------------- solving

    def _solve(self, starts: Sequence[SmplxStart]) -> list[SmplxFit]:
        """The outcome of each scene's people, host arrays."""
        ready = [start.ready for start in starts]
        lists, (problem, cues, begin) = self.on_devices(
            ready, lambda chosen, capacity: self._assemble_smplx([starts[i] for i in chosen], capacity)
        )
        body = self._solver_body_of(second_order.kind_of_batch(ready, self.smplx_config).surface)
        program = ("smplx", *(leaf.shape for leaf in jax.tree.leaves(begin)), body is self._map_bodies.get(True))
        with self.compiling(program, f"the fit of SMPL-X for lists of {begin.reading.shape[1]} people"):
            outcome = _fit_lists(self.smplx_config, self.devices)(body, problem, cues, begin)
        outcome = outcome._replace(parts=self._fit_own_parts(starts, lists, problem, outcome))
        whole = jax.tree.map(np.asarray, outcome)
        found: dict[int, SmplxFit] = {}
        for k, chosen in enumerate(lists):
            first = 0
            for index in chosen:
                people = slice(first, first + len(ready[index].scene))
                first = people.stop
                found[index] = jax.tree.map(lambda a, k=k, people=people: a[k][..., people], whole)
        return [found[i] for i in range(len(starts))]

    def _fit_own_parts(
        self, starts: Sequence[SmplxStart], lists: list[list[int]], problem: Problem, outcome: SmplxFit
    ) -> PartsFit | None:
        """Start the fit of the parts that the fit of Anny has found; None where there are none."""
        if not self.smplx_config.parts.on or not any(start.parts_seen.any() for start in starts):
            return None
        length, dtype = outcome.height.shape[-1], np.dtype(self.model.dtype)
        points = np.stack(
            [part_cues.flat_points([starts[i].ready.scene for i in chosen], length, dtype) for chosen in lists]
        )
        for k, chosen in enumerate(lists):
            found = (
                np.concatenate([starts[i].parts_seen for i in chosen]) if chosen else np.zeros((0, len(PARTS)), bool)
            )
            first = 0
            for part, names in enumerate(part_cues.PART_POINTS.values()):
                points[k, 2, first : first + len(names), : len(found)] *= found[:, part]
                first += len(names)
        log_focal = np.nan_to_num(np.asarray(outcome.camera)[:, FOCAL])
        return self._start_parts(
            " of SMPL-X", self.smplx_config.parts, self._fit_body, self._parts_body, points, problem.cues.intrinsics, outcome,
            log_focal,
        )  # fmt: skip

    @functools.cached_property
    def _parts_body(self) -> PartsBody:
        """Made at the first use."""
        return smplx_parts_body(self.laying)

    def _solver_body_of(self, surface: bool) -> Any:
        if not self.second_order:
            return self._fit_body
        if surface not in self._map_bodies:
            self._map_bodies[surface] = smplx_map_body(self.laying, self._fit_body, self.smplx_config, surface)
        return self._map_bodies[surface]

    def _assemble_smplx(self, starts: Sequence[SmplxStart], capacity: Capacity) -> tuple[Problem, MapCues, Begin]:
        """One list, padded to its capacity; padding repeats the last person."""
        dtype = np.dtype(self.model.dtype)
        ready = [start.ready for start in starts]
        scenes = [each.scene for each in ready]
        config = self.smplx_config
        problem, variables = problems.assemble(scenes, [start.start for start in starts], config, capacity, dtype)
        room = capacity.people - sum(map(len, scenes))

        def last(arrays: Sequence[np.ndarray]) -> np.ndarray:
            flat = np.concatenate(arrays).astype(dtype).T
            return np.ascontiguousarray(np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, room)], mode="edge"))

        def by_scene(arrays: Sequence[np.ndarray | float]) -> np.ndarray:
            flat = np.stack([np.asarray(a) for a in arrays]).astype(dtype)
            return np.pad(flat, [(0, capacity.scenes - len(flat))] + [(0, 0)] * (flat.ndim - 1), mode="edge")

        cues = assemble_cues(ready, config, capacity, dtype)
        offsets = np.moveaxis(np.asarray(cues.keypoint_shift, np.float64), -1, 0)
        own = [np.full(len(s), s.keypoint_convention == "smplx") for s in scenes]
        carried = carried_offsets(self.laying, offsets, self._laid_height)
        carried[last(own) > 0] = 0.0
        cues = cues._replace(
            keypoint_shift=np.ascontiguousarray(np.moveaxis(carried, 0, -1).astype(dtype)),
            facts=with_expected_heights(cues.facts, last([start.height for start in starts])),
        )
        shape = np.zeros_like(variables.shape)
        prior = Variables(
            np.zeros_like(variables.transl),
            last([s.root_mean for s in starts]),
            shape,
            last([s.pose_mean for s in starts]),
        )
        precision = Variables(
            np.zeros_like(variables.transl),
            np.tile(last([s.root_precision for s in starts]), (3, 1)),
            last([s.shape_precision for s in starts]),
            np.tile(last([s.pose_precision for s in starts]), (3, 1, 1)),
        )
        begin = Begin(
            variables, prior, precision, last([s.reading for s in starts]).astype(np.int32),
            by_scene([s.scene for s in starts]), by_scene([s.roll_mode for s in starts]),
        )  # fmt: skip
        return problem, cues, begin

    # -------------------------------------------------------------------------------------------- results

    def _nobody(self, fit: SceneFit) -> SceneFit:
        """The fit with SMPL-X's names and nobody in it; children without a shape say so."""
        labels, n = self.laying.model.labels, len(fit)
        _, refused = self._smplx_starter.can_be_fitted(fit)
        status = np.array(fit.status, "U64")
        status[refused] = f"skipped:{NO_CHILD}"
        unknown = np.full(n, np.nan, np.float32)
        three, pose = np.full((n, 3), np.nan, np.float32), np.full((n, 54, 3), np.nan, np.float32)
        shape = np.full((n, labels.num_betas), np.nan, np.float32)
        return dataclasses.replace(
            fit, status=status, trust=unknown, root_rotvec=three, transl=three, pose=pose, shape=shape, shape_raw=shape,
            start_root_rotvec=three, start_transl=three, start_pose=pose, start_shape=shape,
            height_m=unknown, depth_m=unknown, reprojection_px=unknown, start_reprojection_px=unknown,
            fitted_keypoints_3d=np.full((n, 17, 3), np.nan, np.float32), visible_depth_m=unknown, sd_depth_m=unknown,
            sd_height_m=unknown, sd_joints_m=np.full((n, 17), np.nan, np.float32), converged=unknown,
            expression=FACTS["expression"].absent(n),
            loss_names=np.zeros(0, "U1"), loss_curve=np.zeros((0, 0), np.float32),
            bone_labels=np.array(labels.bones[1:]), phenotype_labels=np.array(labels.shape),
            asset_version=labels.asset_version, vertices=None,
        )  # fmt: skip

    def _smplx_fit(self, empty: SceneFit, fit: SceneFit, start: SmplxStart, outcome: SmplxFit) -> SceneFit:
        frames = self.laying.frames
        people_first = lambda a: np.asarray(a, np.float64).T  # noqa: E731
        low, high = np.asarray(self._fit_body.shape_low), np.asarray(self._fit_body.shape_high)
        end = BodyParameters(
            people_first(outcome.variables.root_rotvec), people_first(outcome.variables.transl),
            people_first(outcome.variables.pose), people_first(outcome.variables.shape),
        )  # fmt: skip
        keypoints, parts = outcome.keypoints, outcome.parts
        expression = np.zeros((len(start.rows), empty.expression.shape[1]))
        if parts is not None:
            end, keypoints = dataclasses.replace(end, pose=people_first(parts.pose)), parts.keypoints
            face = people_first(parts.expression)
            expression[:, : face.shape[1]] = face
        good = np.isfinite(end.pose).all((1, 2)) & np.isfinite(end.root_rotvec).all(1) & np.isfinite(end.transl).all(1)
        status = empty.status.copy()
        status[start.rows[~good]] = "failed:not_finite"
        status[start.rows[good & (end.transl[:, 2] <= 0)]] = "failed:behind_camera"
        sd = uncertainty.calibrated(outcome.uncertainty)

        def put(name: str, values: np.ndarray) -> np.ndarray:
            out = getattr(empty, name).copy()
            out[start.rows[good]] = values[good]
            return out

        def no_less(name: str, own: np.ndarray) -> np.ndarray:
            """What Anny's fit says counts its other starts, and SMPL-X has one."""
            before = getattr(fit, name)[start.rows]
            return put(name, np.where(np.isfinite(before), np.fmax(own, before), own))

        fields = {
            "root_rotvec": end.root_rotvec, "transl": end.transl, "pose": frames.own(np.nan_to_num(end.pose)),
            "shape": np.clip(end.shape, low, high), "shape_raw": end.shape,
            "start_root_rotvec": start.start.root_rotvec, "start_transl": start.start.transl,
            "start_pose": frames.own(start.start.pose), "start_shape": start.start.shape,
            "height_m": outcome.height, "depth_m": end.transl[:, 2], "reprojection_px": outcome.reprojection_px,
            "start_reprojection_px": outcome.start_reprojection_px,
            "fitted_keypoints_3d": people_first(keypoints), "expression": expression, "visible_depth_m": outcome.visible_depth,
            "converged": outcome.converged, "trust": fit.trust[start.rows],
        }  # fmt: skip
        if parts is not None:
            fields |= {field: people_first(getattr(parts, name)) for name, field in PART_FIELDS.items()}
        changed: dict[str, Any] = {name: put(name, np.asarray(values)) for name, values in fields.items()}
        for name, values in (
            ("sd_depth_m", sd.sd_depth), ("sd_height_m", sd.sd_height), ("sd_joints_m", np.asarray(sd.sd_joints).T),
        ):  # fmt: skip
            changed[name] = no_less(name, np.asarray(values))
        camera = np.asarray(outcome.camera, np.float64)
        if np.isfinite(camera).all():
            changed["camera"] = np.where(np.isfinite(fit.camera), camera[CAMERA, 0], np.nan).astype(np.float32)
            changed["depth_scale"] = np.where(
                np.isfinite(fit.depth_scale), np.exp(camera[DEPTH_SCALE, 0]), np.nan
            ).astype(np.float32)
        return dataclasses.replace(empty, status=status, **changed)


NO_CHILD = "child_needs_kid_template"
"""Why a child is not fitted."""


@functools.lru_cache(maxsize=8)
def _fit_lists(config: FitConfig, devices: tuple[Device, ...]) -> jax.stages.Wrapped:
    """The compiled fit of SMPL-X of one list per device."""
    one: Any = solve_map if config.solver == "lm" else solve_adam
    spread = each_list(functools.partial(one, config), devices, common=1, own=3)
    return jax.jit(spread, compiler_options=compiler_options(devices) if config.solver == "lm" else None)
