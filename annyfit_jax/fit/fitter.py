"""Scenes in, fits out: start, batch, solve, judge.

fitter = Fitter(config)
for fit in fitter.fit(scenes): fit_files.save(fit, ...)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from annyfit_jax.fit import adam, evidence, packing, second_order, trust
from annyfit_jax.fit import problem as problems
from annyfit_jax.fit.config import FitConfig, PartFit
from annyfit_jax.fit.fit_body import FitBody, anny_body
from annyfit_jax.fit.keypoint_start import KeypointStart, KeypointStarter
from annyfit_jax.fit.landmark_start import LandmarkStarter
from annyfit_jax.fit.objective import check_terms
from annyfit_jax.fit.parts import part_cues, part_fit
from annyfit_jax.fit.parts.part_body import PartsBody, parts_body
from annyfit_jax.fit.problem import Capacity
from annyfit_jax.fit.second_order import uncertainty
from annyfit_jax.fit.second_order.columns import FOCAL, GROUND, PITCH, ROLL
from annyfit_jax.fit.starts import PreparedScene, prepare
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.settings import config_hash, to_json
from body_models import anny

CPU_LENGTHS = (4, 8, 32, 64)
ACCELERATOR_LENGTHS = (64, 512, 4096)
"""Lengths of lists where `FitConfig.person_lengths` leaves the choice to the device. On CPUs a step costs the same per person
from about 48 people on; accelerators want as many as there are."""
Device = Any
"""`jax.Device`, which type checkers cannot resolve."""
LIST_AXIS = "lists"
_LAST_STEPS, _LITTLE_GAIN, _NO_LOSS = 20, 0.02, 1e-3
"""First-order fits have converged where the last steps save less than this share of the loss, or next to nothing."""
CAMERA = [PITCH, ROLL, GROUND]
"""Unknowns of a scene that a fit stores as `SceneFit.camera`."""


def default_devices() -> list[Device]:
    """All that this process has."""
    return jax.local_devices()


class PendingBatch(NamedTuple):
    """A fit under way."""

    batch: list[PreparedScene]
    lists: list[list[int]]
    """Scenes of each device's list, as indices into `batch`."""
    outcome: adam.BatchFit | second_order.SecondOrderFit
    """Every array with a leading axis of lists."""
    parts: part_fit.PartsFit | None = None
    """What hands, head and feet became, the same way; None where nobody shows any."""

    @property
    def lanes(self) -> int:
        """People that the lists have room for, padding included."""
        lists, _, length = self.outcome.variables.transl.shape
        return lists * length


class Fitter:
    """A body model, an objective and a schedule, ready to fit any number of scenes.

    Every device of `devices` solves a list of people of its own, with whole scenes, all of one length; nothing is communicated.
    """

    def __init__(
        self, config: FitConfig, model: anny.AnnyModel | None = None, devices: Sequence[Device] | None = None
    ) -> None:
        check_terms(config.stages)
        self.config = config
        self.model = anny.load() if model is None else model
        self.body = anny_body(self.model, config)
        self.second_order = config.solver == "lm"
        self._solver_bodies: dict[bool, Any] = {}
        self._starter: Callable[[Scene, float], KeypointStart] | None = None
        self.meshes = BodyMeshes(self.model)
        self.compile_s = 0.0
        """Seconds that calls took in which a program was compiled, or read from the folder of compiled programs."""
        self._compiled: set[Any] = set()
        self.devices = tuple(default_devices() if devices is None else devices)
        on_cpu = self.devices[0].platform == "cpu"
        self.lengths = tuple(config.person_lengths) or (CPU_LENGTHS if on_cpu else ACCELERATOR_LENGTHS)

    def solver_body(self, kind: second_order.Kind) -> Any:
        """The body as the solver takes it for batches of a kind; made at the first use."""
        if not self.second_order:
            return self.body
        if kind.surface not in self._solver_bodies:
            self._solver_bodies[kind.surface] = second_order.prepare_body(
                self.model, self.body, self.config, kind.surface
            )
        return self._solver_bodies[kind.surface]

    @property
    def starter(self) -> Callable[[Scene, float], KeypointStart]:
        """The search for starts of first-order fits; made at the first use."""
        if self._starter is None:
            self._starter = KeypointStarter(self.model)
        return self._starter

    @starter.setter
    def starter(self, starter: Callable[[Scene, float], KeypointStart]) -> None:
        self._starter = starter

    # -------------------------------------------------------------------------------------------- fitting

    def prepare(self, scene: Scene) -> PreparedScene:
        """Start of a scene; raises SceneError where nobody can be fitted."""
        ready = prepare(scene, self.config, lambda part, confidence: self.starter(part, confidence))
        if self.config.parts.on:
            part_cues.part_points(ready.scene)  # refuses what it cannot read
        if not (self.config.searches_starts and self.config.map.landmark_start):
            return ready
        return dataclasses.replace(ready, landmarks=self._landmark_starter(ready.scene))

    @functools.cached_property
    def parts_body(self) -> PartsBody:
        """The body as the fit of its parts takes it; made at the first use."""
        return parts_body(self.model)

    @functools.cached_property
    def _landmark_starter(self) -> LandmarkStarter:
        return LandmarkStarter(self.model)

    def fit(self, scenes: Iterable[Scene]) -> Iterator[SceneFit]:
        """Fit scenes, in order. Raises SceneError at a scene that cannot be fitted: `prepare` first to know."""
        position: dict[int, int] = {}

        def prepared() -> Iterator[PreparedScene]:
            for k, scene in enumerate(scenes):
                ready = self.prepare(scene)
                position[id(ready)] = k
                yield ready

        done: dict[int, SceneFit] = {}
        following = 0
        for batch in self.batches(prepared()):
            done |= zip([position.pop(id(ready)) for ready in batch], self.fit_batch(batch), strict=True)
            while following in done:
                yield done.pop(following)
                following += 1

    def batches(self, scenes: Iterable[PreparedScene]) -> Iterator[list[PreparedScene]]:
        """Scenes that fill one list per device, see `annyfit_jax.fit.packing`; not in order, some are held back for a while."""
        count, longest = len(self.devices), max(self.lengths)
        # Scenes of different kinds are fitted by different programs.
        waiting: dict[second_order.Kind, list[PreparedScene]] = {}

        def take(kind: second_order.Kind, last: bool) -> list[PreparedScene]:
            held = waiting[kind]
            sizes = [packing.size_of(len(ready.scene)) for ready in held]
            chosen = packing.next_round(sizes, self.lengths, count, last=last) if held else []
            batch = [held[i] for i in chosen]
            for i in reversed(chosen):
                del held[i]
            return batch

        for ready in scenes:
            kind = second_order.kind_of(ready, self.config)
            held = waiting.setdefault(kind, [])
            held.append(ready)
            crowd = not packing.fits(packing.size_of(len(ready.scene)), longest)
            people = sum(len(other.scene) for other in held)
            if (crowd or people >= packing.wanted(self.lengths, count)) and (batch := take(kind, last=False)):
                yield batch
        rests = [kind for kind, held in waiting.items() if held]
        for kind in rests:
            # A small job compiles one program, not one per kind.
            like = [other for other in rests if other in waiting and kind.may_join(other)]
            if sum(len(ready.scene) for other in like for ready in waiting[other]) <= count * longest:
                waiting[kind] = [ready for other in like for ready in waiting.pop(other)]
            while kind in waiting and (batch := take(kind, last=True)):
                yield batch

    def lists(self, batch: Sequence[PreparedScene]) -> tuple[list[list[int]], Capacity]:
        """How a batch is spread over the devices: scenes of each list, and the lists' common capacity."""
        sizes = [packing.size_of(len(ready.scene)) for ready in batch]
        length = packing.smallest_length(sizes, self.lengths, len(self.devices))
        capacity = packing.capacity(length)
        if not second_order.kind_of_batch(batch, self.config).crowd:
            capacity = dataclasses.replace(capacity, pairs=0)
        return packing.fill(sizes, length, len(self.devices))[0], capacity

    def fit_batch(self, batch: Sequence[PreparedScene]) -> list[SceneFit]:
        """Fit one batch; the result has one `SceneFit` per scene, in order."""
        return self.collect(self.dispatch(batch))

    def dispatch(self, batch: Sequence[PreparedScene]) -> PendingBatch:
        """Assemble a batch and start its fit without waiting for it."""
        lists, problem, variables = self.assemble(batch)
        kind = second_order.kind_of_batch(batch, self.config)
        body = self.solver_body(kind)
        program = (kind, *(leaf.shape for leaf in jax.tree.leaves(variables)))
        # The fit of the parts is a program of its own: that of the body does not depend on its settings.
        bodies = dataclasses.replace(self.config, parts=PartFit())
        with self.compiling(program, f"the fit for lists of {variables.transl.shape[-1]} people"):
            outcome = fit_lists(bodies, self.devices)(body, problem, variables)
        return PendingBatch(list(batch), lists, outcome, self._fit_parts(batch, lists, problem, outcome))

    def _fit_parts(
        self, batch: Sequence[PreparedScene], lists: list[list[int]], problem: Any, outcome: Any
    ) -> part_fit.PartsFit | None:
        """Start the fit of hands, head and feet of a batch; None where nobody shows any."""
        if not self.config.parts.on or all(part_cues.part_points(ready.scene) is None for ready in batch):
            return None
        length, dtype = outcome.variables.transl.shape[-1], np.dtype(self.model.dtype)
        points = np.stack([part_cues.flat_points([batch[i].scene for i in chosen], length, dtype) for chosen in lists])
        known = isinstance(outcome, second_order.SecondOrderFit)
        log_focal = np.nan_to_num(np.asarray(outcome.camera)[:, FOCAL]) if known else np.zeros(points.shape[::3], dtype)
        cues = problem.problem.cues if self.second_order else problem.cues
        return self._start_parts(
            "", self.config.parts, self.body, self.parts_body, points, cues.intrinsics, outcome, log_focal
        )

    def _start_parts(
        self, whose: str, settings: PartFit, fit_body: FitBody, body: PartsBody, points: np.ndarray,
        intrinsics: problems.AnyArray, outcome: Any, log_focal: np.ndarray,
    ) -> part_fit.PartsFit:  # fmt: skip
        """Start the fit of the parts that are seen after that of the body, `outcome`. `whose`: the body's name in messages."""
        length, body = points.shape[-1], body.with_shown(points[:, 2])
        given = part_fit.PartCues(self.spread(points), intrinsics)
        with self.compiling(
            ("parts", whose, length, body.shown), f"the fit of hands, head and feet{whose} for lists of {length} people"
        ):
            return fit_parts(settings, self.devices)(
                fit_body, body, given, outcome.variables, outcome.keypoints, self.spread(log_focal)
            )

    @contextlib.contextmanager
    def compiling(self, program: Any, what: str) -> Iterator[None]:
        """Around a call in which JAX compiles where the program is new: says so, and adds the time to `compile_s`."""
        new, began = program not in self._compiled, time.monotonic()
        if new:
            logging.info("compiling %s ...", what)
        yield
        if new:
            self._compiled.add(program)
            self.compile_s += time.monotonic() - began

    def assemble(self, batch: Sequence[PreparedScene]) -> tuple[list[list[int]], Any, problems.Variables]:
        """The lists of a batch, on their devices: a `Problem` (second order: a `MapProblem`) and the start, every array with a
        leading axis of lists."""
        lists, (problem, variables) = self.on_devices(
            batch, lambda chosen, capacity: self._assemble([batch[i] for i in chosen], capacity)
        )
        return lists, problem, variables

    def on_devices(
        self, batch: Sequence[PreparedScene], assemble: Callable[[list[int], Capacity], Any]
    ) -> tuple[list[list[int]], Any]:
        """The lists of a batch, and what `assemble` makes of each (scenes, room), stacked, a list on each device."""
        lists, capacity = self.lists(batch)
        # A device without a scene repeats the first list; nobody asks for its result.
        assembled = [assemble(chosen or lists[0], capacity) for chosen in lists]
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *assembled)
        return lists, self.spread(stacked)

    def spread(self, lists: Any) -> Any:
        """Arrays with a leading axis of lists, a list on each device."""
        return jax.device_put(lists, jax.NamedSharding(device_mesh(self.devices), jax.P(LIST_AXIS)))

    def _assemble(self, prepared: Sequence[PreparedScene], capacity: Capacity) -> tuple[Any, problems.Variables]:
        dtype = np.dtype(self.model.dtype)
        if self.second_order:
            return second_order.assemble(prepared, self.config, capacity, dtype)
        scenes, starts = [ready.scene for ready in prepared], [ready.start for ready in prepared]
        return problems.assemble(scenes, starts, self.config, capacity, dtype)

    def collect(self, pending: PendingBatch) -> list[SceneFit]:
        """Wait for a dispatched batch and judge its people; one `SceneFit` per scene, in the batch's order."""
        whole = jax.tree.map(np.asarray, pending.outcome)
        parts = None if pending.parts is None else jax.tree.map(np.asarray, pending.parts)
        if parts is not None:
            whole = whole._replace(variables=whole.variables._replace(pose=parts.pose), keypoints=parts.keypoints)
        fits: dict[int, SceneFit] = {}
        for k, chosen in enumerate(pending.lists):
            outcome: Any = jax.tree.map(lambda x, k=k: x[k], whole)  # a BatchFit of host arrays
            scenes = [pending.batch[i].scene for i in chosen]
            ends = problems.split_people(outcome.variables, scenes) if scenes else []
            begun = problems.split_people(outcome.stage_variables[0], scenes) if scenes else []
            first = 0
            for s, (index, end) in enumerate(zip(chosen, ends, strict=True)):
                people = slice(first, first + len(end))
                first += len(end)
                losses = [{name: curve[:, s] for name, curve in stage.items()} for stage in outcome.losses]
                ready = pending.batch[index]
                if self.config.searches_starts:
                    pose_known = ready.knows_pose
                    ready = dataclasses.replace(ready, start=ready.start if pose_known.all() else begun[s])
                fit = self._collect(ready, end, outcome, people, losses)
                if self.config.parts.on:
                    none = np.full((len(end), len(PARTS)), np.nan)
                    own = {name: none if name != "moved" else 0.0 * np.nan_to_num(none) for name in PART_FIELDS}
                    if parts is not None:
                        own = {name: getattr(parts, name)[k][:, people].T for name in PART_FIELDS}
                    fit = _with_parts(fit, ready.kept, own)
                fits[index] = fit
        return [fits[i] for i in range(len(pending.batch))]

    # -------------------------------------------------------------------------------------------- results

    def _collect(
        self,
        prepared: PreparedScene,
        end: BodyParameters,
        outcome: Any,
        people: slice,
        losses: list[dict[str, np.ndarray]],
    ) -> SceneFit:
        scene, kept = prepared.scene, prepared.kept
        total = len(kept) + len(prepared.skipped)
        status = np.full(total, "ok", dtype="U64")
        notes = np.full(total, "", dtype="U256")
        ids = np.full(total, "", dtype="U64")
        for index, reason in prepared.skipped.items():
            status[index] = f"skipped:{reason}"
            ids[index] = prepared.skipped_ids[index]
        ids[kept] = scene.person_ids or [str(i) for i in kept]
        for row, index in enumerate(kept):
            notes[index] = ";".join(prepared.notes[row])
            status[index] = _status(end, row)
        shape = np.clip(end.shape, np.asarray(self.body.shape_low), np.asarray(self.body.shape_high))
        limit = np.asarray(self.body.pose_limit)
        pose = np.clip(end.pose, -limit, limit)

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.full((total, *values.shape[1:]), np.nan, np.float32)
            out[kept] = values
            return out

        words = np.full((total, 2), -1.0, np.float32)
        words[kept] = np.stack([scene.age, scene.gender], 1)
        names, curve = _loss_table(losses)
        start = prepared.start
        cues = (scene.keypoints, scene.dense_keypoints, self.config.keypoint_confidence)
        fit = SceneFit(
            name=scene.name,
            image_size=np.asarray(scene.image_size, np.int32),
            image_path=scene.image_path or "",
            lens=scene.lens,
            K=_fitted_intrinsics(scene, outcome, people),
            person_ids=ids,
            status=status,
            notes=notes,
            root_rotvec=spread(end.root_rotvec),
            transl=spread(end.transl),
            pose=spread(pose),
            shape=spread(shape),
            shape_raw=spread(end.shape),
            start_root_rotvec=spread(start.root_rotvec),
            start_transl=spread(start.transl),
            start_pose=spread(start.pose),
            start_shape=spread(start.shape),
            start_origin=prepared.origin,
            height_m=spread(outcome.height[people]),
            depth_m=spread(end.transl[:, 2]),
            reprojection_px=spread(outcome.reprojection_px[people]),
            start_reprojection_px=spread(outcome.start_reprojection_px[people]),
            keypoints_2d=spread(scene.keypoints),
            fitted_keypoints_3d=spread(np.asarray(outcome.keypoints)[..., people].transpose(2, 1, 0)),
            age_word=words[:, 0],
            gender_word=words[:, 1],
            loss_names=names,
            loss_curve=curve,
            bone_labels=np.array(self.model.labels.bones[1:]),
            phenotype_labels=np.array(self.model.labels.phenotypes),
            asset_version=self.model.labels.asset_version,
            config_hash=config_hash(self.config),
            config_json=json.dumps(to_json(self.config)),
            scene_notes=np.array(scene.notes, dtype=np.str_),
            set_aside=np.array(scene.skipped, dtype=np.str_).reshape(-1, 2),
            depth_cue_m=spread(scene.median_depth),
            seen=spread((scene.keypoints[..., 2] >= self.config.keypoint_confidence).astype(np.float32)),
            evidence=spread(evidence.joints_seen(*cues)),
            extent_px=spread(evidence.extent_px(*cues)),
            **_added(outcome, people, spread, _had_converged(losses)),
        )
        fit = dataclasses.replace(fit, trust=np.where(fit.ok, trust.judge(fit).score, np.nan).astype(np.float32))
        if not isinstance(outcome, second_order.SecondOrderFit):
            return fit
        harder = uncertainty.hardship(scene, prepared.knows_pose, self.config.map.min_confidence)
        return dataclasses.replace(
            fit,
            sd_depth_m=fit.sd_depth_m * spread(harder["depth"]),
            sd_joints_m=fit.sd_joints_m * spread(harder["joints"])[:, None],
        )

    def vertices(self, people: BodyParameters) -> np.ndarray:
        """(n, 13718, 3) float32 posed vertices in camera space; NaN for people with NaN parameters."""
        return self.meshes.vertices(people)


@functools.lru_cache(maxsize=8)
def device_mesh(devices: tuple[Device, ...]) -> jax.sharding.Mesh:
    """One list per device."""
    return jax.make_mesh((len(devices),), (LIST_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


@functools.lru_cache(maxsize=8)
def fit_lists(config: FitConfig, devices: tuple[Device, ...]) -> jax.stages.Wrapped:
    """The compiled fit of one list per device: (body, problem, variables) -> `adam.BatchFit` or
    `second_order.SecondOrderFit`, arrays with a leading axis of lists. One compilation per length of list; `variables` are
    donated.
    """

    solve: Any = second_order.solve if config.solver == "lm" else adam.solve
    spread = each_list(functools.partial(solve, config), devices, common=1, own=2)
    options = compiler_options(devices) if config.solver == "lm" else None
    return jax.jit(spread, donate_argnums=(2,), compiler_options=options)


@functools.lru_cache(maxsize=8)
def fit_parts(settings: PartFit, devices: tuple[Device, ...]) -> jax.stages.Wrapped:
    """The compiled fit of the parts of one list per device, as `fit_lists` is that of the bodies."""

    spread = each_list(functools.partial(part_fit.solve, settings), devices, common=2, own=4)
    return jax.jit(spread, compiler_options=compiler_options(devices))


def each_list(solve: Callable[..., Any], devices: tuple[Device, ...], *, common: int, own: int) -> Callable[..., Any]:
    """`solve` of one list, for a list per device: its first arguments are `common` to all, every array of the `own` ones that
    follow and of the result has a leading axis of lists.

    `shard_map` without its check of replication: with it, the gradient of a value that is the same on all devices would be
    summed over them, without a word. No gradient is taken for those here.
    """

    def one_list(*given: Any) -> Any:
        lists = jax.tree.map(lambda x: x[0], given[common:])
        return jax.tree.map(lambda x: x[None], solve(*given[:common], *lists))

    specs = (*common * (jax.P(),), *own * (jax.P(LIST_AXIS),))
    return jax.shard_map(
        one_list, mesh=device_mesh(devices), in_specs=specs, out_specs=jax.P(LIST_AXIS), check_vma=False
    )


def _with_parts(fit: SceneFit, kept: np.ndarray, own: dict[str, np.ndarray]) -> SceneFit:
    """The fit with what is known of its parts, fields of `PART_FIELDS`, (m, 5) for the m people that were fitted."""
    fields = {}
    for name, field in PART_FIELDS.items():
        fields[field] = np.full((len(fit), own[name].shape[1]), np.nan, np.float32)
        fields[field][kept] = own[name]
    return dataclasses.replace(fit, **fields)


PART_FIELDS = {
    "moved": "parts_seen", "error_px": "parts_px", "start_error_px": "start_parts_px", "sd_m": "sd_parts_m",
}  # fmt: skip
"""Fields of `part_fit.PartsFit` and of `SceneFit`."""


def compiler_options(devices: tuple[Device, ...]) -> dict[str, Any] | None:
    """A second-order program is a thousand small kernels: the older emitters of XLA's CPU backend compile it in half the time
    of the new ones, and the first level of optimisation in a fifth less than the third, to code that is as fast."""
    if devices[0].platform != "cpu":
        return None
    level = {} if jax.config.read("jax_disable_most_optimizations") else {"xla_backend_optimization_level": 1}
    return {"xla_cpu_use_fusion_emitters": False, **level}


def _added(
    outcome: Any, people: slice, spread: Callable[[np.ndarray], np.ndarray], had_converged: float
) -> dict[str, Any]:
    """What second-order fits know of their people, fields of `people.fitted.ADDED`; of first-order fits only whether the scene
    had converged."""
    if not isinstance(outcome, second_order.SecondOrderFit):
        return {"converged": spread(np.full(people.stop - people.start, had_converged))}
    sd = uncertainty.calibrated(outcome.uncertainty)
    fields = {
        "depth_scale": outcome.depth_scale,
        "visible_depth_m": outcome.visible_depth,
        "sd_depth_m": sd.sd_depth,
        "sd_height_m": sd.sd_height,
        "sd_joints_m": np.moveaxis(np.asarray(sd.sd_joints), -1, 0),
        "converged": outcome.converged,
        "spread_m": outcome.spread,
        "camera": np.asarray(outcome.camera)[CAMERA].T,
    }
    return {name: spread(np.asarray(values)[people]) for name, values in fields.items()}


def _had_converged(losses: list[dict[str, np.ndarray]]) -> float:
    """1 where the last steps of Adam gained little of a scene's loss, else 0; NaN without steps."""
    totals = [np.sum(list(stage.values()), axis=0) for stage in losses if stage]
    totals = [total for total in totals if len(total) > 1]
    if not totals:
        return np.nan
    last = totals[-1][-_LAST_STEPS:].astype(np.float64)
    return float(last[0] - last[-1] <= _LITTLE_GAIN * abs(last[-1]) + _NO_LOSS)


def _fitted_intrinsics(scene: Scene, outcome: Any, people: slice) -> np.ndarray:
    """The scene's intrinsics, with the focal length of the fit where it was guessed."""
    k = np.array(scene.intrinsics, np.float32)
    if isinstance(outcome, second_order.SecondOrderFit) and scene.focal_guessed:
        log_focal = float(np.asarray(outcome.camera)[FOCAL, people][0])
        if np.isfinite(log_focal):
            k[:2, :2] *= np.exp(log_focal)
    return k


def _status(end: BodyParameters, row: int) -> str:
    values = (end.root_rotvec[row], end.transl[row], end.pose[row], end.shape[row])
    if not all(np.isfinite(v).all() for v in values):
        return "failed:not_finite"
    return "failed:behind_camera" if end.transl[row, 2] <= 0 else "ok"


def _loss_table(losses: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    names = sorted({name for stage in losses for name in stage})
    blocks = []
    for stage in losses:
        steps = len(next(iter(stage.values()))) if stage else 0
        empty = np.full(steps, np.nan, np.float32)
        blocks.append(np.stack([stage.get(name, empty) for name in names], 1) if names else empty[:, None])
    return np.array(names, dtype=np.str_), np.concatenate(blocks).astype(np.float32)
