"""The second-order fit of a batch: closed-form start, rounds of Levenberg-Marquardt, uncertainty; one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Shaped
from numpy.typing import DTypeLike

from annyfit_jax.fit import problem as problems
from annyfit_jax.fit.config import FitConfig, MapObjective
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.problem import AnyArray, Capacity, Problem, Variables
from annyfit_jax.fit.second_order import hypotheses, lm, map_objective, released, small_linear, turning, uncertainty
from annyfit_jax.fit.second_order.columns import DEPTH, DEPTH_SCALE, FOCAL, NUM_SCENE, ROLL, bounds, pack, unpack
from annyfit_jax.fit.second_order.costs.shape import AGE, GENDER, HEIGHT
from annyfit_jax.fit.second_order.frozen import Frozen, nothing_frozen
from annyfit_jax.fit.second_order.map_body import MapBody, body_height, map_body, population_mean
from annyfit_jax.fit.second_order.map_cues import MapCues, assemble_cues, middle_ages
from annyfit_jax.fit.second_order.map_objective import Context
from annyfit_jax.fit.second_order.placement import closed_form_start, named_shape
from annyfit_jax.fit.second_order.released import ReleasedBody
from annyfit_jax.fit.second_order.uncertainty import Uncertainty
from annyfit_jax.fit.starts import PreparedScene
from annyfit_jax.people.scene import COCO17
from annyfit_jax.people.words import AGE_CLASSES
from body_models.anny import AnnyModel


class LandmarkStarts(NamedTuple):
    """A start of N people from their metric landmarks."""

    known: Shaped[AnyArray, "N"]
    root_rotvec: Float[AnyArray, "3 N"]
    pose: Float[AnyArray, "3 B N"]


@struct.dataclass
class MapProblem:
    """Constants of one batch."""

    problem: Problem
    cues: MapCues
    landmarks: LandmarkStarts | None = None
    """What takes the place of the last start, of people who have landmarks."""
    starts: int = struct.field(pytree_node=False, default=1)
    """Starts of every person."""
    searched: bool = struct.field(pytree_node=False, default=False)
    """Whether starts are searched for: somebody's pose is not known."""
    supposed_ages: tuple[str, ...] = struct.field(pytree_node=False, default=())
    """Classes of age that people without an age word may be of, besides the one that they start with."""


class Kind(NamedTuple):
    """What a batch's program must do; scenes of different kinds go into different batches, but for the last ones of a job."""

    surface: bool
    """There are dense points or metric depths."""
    search: bool
    """Somebody's pose is not known: several starts."""
    crowd: bool
    """There may be more than one person."""
    landmarks: bool = False
    """Somebody whose pose is not known has metric landmarks: one start more."""
    ages: bool = False
    """Somebody whose pose is not known has no age word: several ages are supposed."""

    def may_join(self, other: Kind) -> bool:
        """Whether scenes of both kinds are fitted the same in one batch: crowds and supposed ages ask nothing of the others."""
        return (self.surface, self.search, self.landmarks) == (other.surface, other.search, other.landmarks)


def kind_of(ready: PreparedScene, config: FitConfig) -> Kind:
    """Kind of a scene. The released objective knows one kind."""
    if not config.searches_starts:
        return Kind(True, False, True)
    scene = ready.scene
    surface = bool((scene.dense_keypoints[..., 2] > 0).any()) or bool(np.isfinite(scene.median_depth).any())
    landmarks = ready.landmarks is not None and bool((ready.landmarks.known & ~ready.knows_pose).any())
    ages = bool(config.map.supposed_ages) and bool(((scene.age < 0) & ~ready.knows_pose).any())
    return Kind(surface, not bool(ready.knows_pose.all()), surface or len(scene) > 1, landmarks, ages)


def kind_of_batch(batch: Sequence[PreparedScene], config: FitConfig) -> Kind:
    """What the program of some scenes must do: all that any of them needs."""
    return Kind(*(any(needed) for needed in zip(*(kind_of(ready, config) for ready in batch), strict=True)))


class SecondOrderFit(NamedTuple):
    """Outcome of a batch; the fields up to `height` are those of `adam.BatchFit`."""

    variables: Variables
    losses: tuple[dict[str, Float[Array, "step scene"]], ...]
    """Of the last stage: one term, the energy before every iteration and at the end."""
    reprojection_px: Float[Array, "N"]
    start_reprojection_px: Float[Array, "N"]
    stage_variables: tuple[Variables, ...]
    """After the closed-form start (`released`: after each stage of Adam), then the end."""
    keypoints: Float[Array, "3 17 N"]
    height: Float[Array, "N"]
    energy: Float[Array, "N"]
    """Each person's energy at the end, `map`: nats."""
    converged: Float[Array, "N"]
    """1 where the last step promised to save less than `lm.converged_nats`, else 0."""
    depth_scale: Float[Array, "N"]
    """Estimated factor of the metric depth cues of the person's scene; NaN where there are none."""
    visible_depth: Float[Array, "N"]
    """Median camera z of the visible surface, which the cue is compared with, metres; NaN for `released`."""
    uncertainty: Uncertainty
    """Not calibrated; NaN for `released`, whose energy is no log posterior."""
    spread: Float[Array, "N"]
    """How far the joints of the other starts' ends are from these, hips aligned, weighed by their posterior: root mean square,
    metres; NaN where there is one start."""
    camera: Float[Array, "q N"]
    """Unknowns of each person's scene (`columns`), roll from upright; NaN for `released`."""


def prepare_body(model: AnnyModel, body: FitBody, config: FitConfig, surface: bool = True) -> MapBody | ReleasedBody:
    """The body as `solve` takes it for batches of a kind. Raises ValueError for another body than the six-phenotype Anny."""
    if config.lm.objective == "released":
        return released.released_body(model, body)
    return map_body(model, body, config, surface)


def assemble(
    prepared: Sequence[PreparedScene],
    config: FitConfig,
    capacity: Capacity | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[MapProblem, Variables]:
    """Flatten prepared scenes into one problem (host-side numpy), as `problem.assemble` does, with the cues it leaves out."""
    scenes = [ready.scene for ready in prepared]
    capacity = capacity or problems.capacity_of(scenes)
    problem, variables = problems.assemble(scenes, [ready.start for ready in prepared], config, capacity, dtype)
    kind = kind_of_batch(prepared, config)
    cues = assemble_cues(prepared, config, capacity, dtype)
    landmarks = _landmark_starts(prepared, capacity, dtype) if kind.landmarks else None
    count = config.map.starts + config.map.lifted + kind.landmarks if kind.search else 1
    ages = config.map.supposed_ages if kind.ages else ()
    return MapProblem(problem, cues, landmarks, count, kind.search, ages), variables


def _landmark_starts(prepared: Sequence[PreparedScene], capacity: Capacity, dtype: DTypeLike) -> LandmarkStarts:
    """People last, padded; zeros where there are no landmarks."""
    starts = [(ready.landmarks, ready.start) for ready in prepared]
    root, pose = (
        np.concatenate(
            [
                np.full(getattr(own, name).shape, np.nan) if marks is None else getattr(marks, name)
                for marks, own in starts
            ]
        )
        for name in ("root_rotvec", "pose")
    )
    known = np.asarray(np.isfinite(root).all(-1) & np.isfinite(pose).all((1, 2)))

    def people_last(array: np.ndarray) -> np.ndarray:
        filled = np.where(known.reshape(-1, *[1] * (array.ndim - 1)), array, 0.0).astype(dtype)
        return np.ascontiguousarray(np.pad(filled.T, [(0, 0)] * (array.ndim - 1) + [(0, capacity.people - len(array))]))

    return LandmarkStarts(people_last(known), people_last(root), people_last(pose))


def solve(config: FitConfig, body: MapBody | ReleasedBody, problem: MapProblem, variables: Variables) -> SecondOrderFit:
    """Fit all people of a batch by `config.lm`; not compiled.

    Args:
      config: static.
      body: from `prepare_body`; its dtype is the dtype of the fit.
      problem, variables: from `assemble`.
    """
    if isinstance(body, ReleasedBody):
        return _solve_released(config, body, problem.problem, variables)
    return _solve_map(config, body, problem, variables)


class _Memory(NamedTuple):
    """What one evaluation hands to the next."""

    frozen: Frozen
    keypoints: Float[Array, "3 17 N"]
    depth: Float[Array, "N"]
    """Camera z of the root."""


def search(
    config: FitConfig,
    context: Context,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    mode: Float[Array, "G"],
    span: tuple[Array | int, Array | int],
    extra: Float[Array, "N"] | float = 0.0,
) -> lm.Minimum:
    """Some of the iterations of a whole search (`lm.minimise`); it reports an `Uncertainty` and the depth of what is visible.

    Args:
      mode: roll of each scene's camera about which its own is counted, radians.
      span: the first iteration, and the one before which it stops.
      extra: what is added to each person's energy.
    """
    settings, schedule, body, problem = config.map, config.lm, context.body, context.problem
    iterations = schedule.rounds * schedule.iterations
    begin = _begin(config, body, problem, x, scene_x, mode)

    def evaluate(x: Array, scene_x: Array, memory: _Memory, index: Array) -> lm.Evaluation:
        refresh = (index % schedule.iterations == 0) & (index < iterations)
        model = map_objective.evaluate(settings, context, memory.frozen, x, scene_x, refresh, index / iterations)
        return lm.Evaluation(
            system=model.system._replace(energy=model.system.energy + extra),
            memory=_Memory(model.frozen, model.tangents.lin.points[0], x[DEPTH]),
            energy_at=lambda other: map_objective.energy(
                settings, context, model.frozen, x, other, model.tangents.lin.points
            ),
            extra=(model.tangents, x),
        )

    def finish(end: lm.Evaluation, factor: small_linear.Factor, scale: Array) -> tuple[Uncertainty, Array]:
        tangents, x = end.extra
        frozen = end.memory.frozen
        sd = uncertainty.estimate(
            body, problem.scene, end.system, factor, scale, tangents.keypoints, frozen.height_slope, x
        )
        return sd, x[DEPTH] + frozen.visible_offset

    return lm.minimise(
        evaluate,
        lambda x, scene_x, memory: map_objective.energy(settings, context, memory.frozen, x, scene_x),
        finish, begin.state, begin.memory, problem.scene, bounds(body.plan.layout, body.fit), schedule, iterations, span,
        turning.in_turns, turning.turned, begin.report,
    )  # fmt: skip


def _begin(
    config: FitConfig,
    body: MapBody,
    problem: Problem,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    mode: Array,
) -> lm.Minimum:
    """A search before its first iteration."""
    zero = jnp.zeros_like(x[0])
    by_keypoint = jnp.broadcast_to(zero, (len(COCO17), *zero.shape))
    return lm.Minimum(
        state=lm.State(x, scene_x, damping=zero + config.lm.damping, promised=zero),
        memory=_Memory(nothing_frozen(body, mode[problem.scene]), jnp.stack(3 * [by_keypoint]), zero),
        report=(Uncertainty(zero, zero, by_keypoint), zero),
        energies=jnp.broadcast_to(zero, (config.lm.rounds * config.lm.iterations + 1, *zero.shape)),
    )


class _Ends(NamedTuple):
    """What became of every start, after the first half of the iterations."""

    x: Float[Array, "K D N"]
    scene_x: Float[Array, "K G q"]
    energy: Float[Array, "K N"]
    """Of the last evaluation, as what follows."""
    keypoints: Float[Array, "K 3 17 N"]
    depth: Float[Array, "K N"]
    height: Float[Array, "K N"]
    origin: Int[Array, "K N"]
    """The start that it came from."""


def _solve_map(config: FitConfig, body: MapBody, given: MapProblem, variables: Variables) -> SecondOrderFit:
    """Every start for the first half of the iterations, one after the other; then the best one of each person at each of the
    supposed ages, for one round; then the best of all of these, together with the best ones of the other people of the scene,
    for the second half. All of it is one loop body, compiled once."""
    settings, layout, schedule = config.map, body.plan.layout, config.lm
    problem, count = given.problem, given.starts
    ages = middle_ages(settings)[np.array([list(AGE_CLASSES).index(name) for name in given.supposed_ages], int)]
    slots = count + len(ages)
    people, scenes = len(given.cues.real), problem.num_scenes
    found, later, cues = _starts(config, body, given, variables)
    placed, prepared = jax.lax.map(
        lambda start: closed_form_start(config, body, hypotheses.read(problem, start[1]), cues, start[0]),
        (found.variables, found.reading),
    )
    dtype = placed.transl.dtype
    iterations = schedule.rounds * schedule.iterations
    half = schedule.rounds // 2 * schedule.iterations
    mode = hypotheses.roll_mode(config, problem, cues, prepared[0], given.searched, found.roll_mode)

    def run(x: Array, scene_x: Array, base: Variables, reading: Array, span: tuple) -> lm.Minimum:
        context = Context(
            body, hypotheses.read(problem, reading), cues, map_objective.reference_of(settings, body, cues, base), base
        )
        return search(config, context, x, scene_x, mode, span, settings.swap_nats * (reading > 0))

    def judged(ends: _Ends) -> Array:
        """What every start's end costs where the best is chosen."""
        untold = (jnp.asarray(cues.age_known) == 0) & (jnp.asarray(cues.from_cue) == 0)
        supposed = jnp.arange(slots)[:, None] >= count
        energy = ends.energy + jnp.where(supposed, jnp.where(untold, settings.supposed_age_nats, jnp.inf), 0.0)
        if later is None or not settings.lifter_nats:
            return energy
        tall, grown = body_height(body, later.variables.shape[0]), jnp.maximum(ends.height, 0.1)
        reading = jnp.take_along_axis(found.reading, ends.origin, axis=0)
        cost = hypotheses.lifter_cost(later, tall, ends.keypoints, grown, reading)
        return energy + settings.lifter_nats * jnp.where(jnp.asarray(cues.from_cue) > 0, 0.0, cost)

    begin = jnp.broadcast_to(jnp.asarray(cues.scene_mean, dtype), (scenes, NUM_SCENE))
    if slots == 1:
        chosen = jnp.zeros((people,), jnp.int32)
        base = Variables(*(v[0] for v in placed))
        end = run(pack(layout, base), begin, base, found.reading[0], (0, iterations + 1))
        energies, ends = end.energies, None
    else:
        packed = jax.vmap(lambda start: pack(layout, start))(placed)

        def attempt(carry: tuple, index: Array) -> tuple[tuple, None]:
            ends, energies, _ = carry
            own, final = index < count, index == slots
            lowest, by_scene = hypotheses.best(judged(ends), problem, cues)
            origin = jnp.where(own, jnp.minimum(index, count - 1), _take(ends.origin, lowest))
            base = Variables(*(_take(v, origin) for v in placed))
            x = jnp.where(own, _take(packed, origin), _take(ends.x, lowest))
            if len(ages):
                age = jnp.asarray(ages, dtype)[jnp.clip(index - count, 0, len(ages) - 1)]
                x = jnp.where(own | final, x, _at_age(body, x, base, age))
            later = jnp.take_along_axis(ends.scene_x, by_scene[None, :, None], axis=0)[0]
            scene_x = jnp.where(own, begin, later)
            first = jnp.where(own, 0, jnp.where(final, half, max(half - schedule.iterations, 0)))
            span = (first, jnp.where(final, iterations + 1, half))
            end = run(x, scene_x, base, _take(found.reading, origin), span)
            slot = jnp.minimum(index, slots - 1)
            energies = jnp.where(final, energies, energies.at[:, slot].set(end.energies))
            last = jnp.maximum(half - 1, 0)
            new = _Ends(
                ends.x.at[slot].set(end.state.x),
                ends.scene_x.at[slot].set(end.state.scene_x),
                ends.energy.at[slot].set(end.energies[last]),
                ends.keypoints.at[slot].set(end.memory.keypoints),
                ends.depth.at[slot].set(end.memory.depth),
                ends.height.at[slot].set(end.memory.frozen.height),
                ends.origin.at[slot].set(origin),
            )
            ends = jax.tree.map(lambda a, b: jnp.where(final, b, a), new, ends)
            return (ends, energies, end), None

        nothing = jnp.zeros((slots, people), dtype)
        empty = _Ends(
            x=jnp.zeros((slots, *packed.shape[1:]), dtype),
            scene_x=jnp.broadcast_to(begin, (slots, *begin.shape)),
            energy=jnp.full((slots, people), jnp.inf, dtype),
            keypoints=jnp.zeros((slots, *prepared.shape[1:]), dtype),
            depth=nothing,
            height=nothing,
            origin=jnp.zeros((slots, people), jnp.int32),
        )
        blank = _begin(config, body, problem, packed[0], begin, mode)
        history = jnp.zeros((iterations + 1, slots, people), dtype)
        (ends, history, end), _ = jax.lax.scan(attempt, (empty, history, blank), jnp.arange(slots + 1))
        best, _ = hypotheses.best(judged(ends), problem, cues)
        chosen = _take(ends.origin, best)
        index = jnp.broadcast_to(best, (iterations + 1, 1, people))
        energies = end.energies + jnp.take_along_axis(history, index, axis=1)[:, 0]
    start = Variables(*(_take(v, chosen) for v in placed))
    final = unpack(layout, end.state.x, start)
    sd, visible = end.report
    keypoints = end.memory.keypoints
    spread = jnp.full((people,), jnp.nan, dtype)
    if ends is not None:
        sd, spread = _with_alternatives(settings, ends._replace(energy=judged(ends)), best, sd)
    camera = end.state.scene_x[problem.scene].T.at[ROLL].add(mode[problem.scene])
    known = jax.ops.segment_max(jnp.asarray(cues.depth_known), problem.scene, num_segments=scenes)[problem.scene]
    return SecondOrderFit(
        variables=final,
        losses=({"map": _by_scene(problem, energies)},),
        reprojection_px=reprojection_error(
            config, problem, keypoints + end.memory.frozen.keypoint_shift, camera[FOCAL], _take(found.reading, chosen)
        ),
        start_reprojection_px=reprojection_error(config, problem, _take(prepared, chosen)),
        stage_variables=(start, final),
        keypoints=keypoints,
        height=body.fit.height(final.shape),
        energy=energies[-1],
        converged=(end.state.promised < schedule.converged_nats).astype(dtype),
        depth_scale=jnp.where(known > 0, jnp.exp(camera[DEPTH_SCALE]), jnp.nan),
        visible_depth=visible,
        uncertainty=sd,
        spread=spread,
        camera=camera,
    )


def _starts(
    config: FitConfig, body: MapBody, given: MapProblem, variables: Variables
) -> tuple[hypotheses.Starts, hypotheses.Lifted | None, MapCues]:
    """The starts of every person; where the pose is known, it is every one of them. What the lifter says, if
    asked; and the cues with what it adds to them."""
    problem, cues, count = given.problem, given.cues, given.starts
    known = jnp.asarray(cues.from_cue) > 0
    own = Variables(*(jnp.broadcast_to(jnp.asarray(v), (count, *np.shape(v))) for v in variables))
    if not given.searched:
        nowhere = jnp.zeros((problem.num_scenes,), own.transl.dtype)
        return hypotheses.Starts(own, jnp.zeros((count, len(known)), jnp.int32), nowhere), None, cues
    searched = config.map.starts > 0
    shape = named_shape(config, body, cues, jnp.asarray(variables.shape))
    found = hypotheses.search(config, body, problem, cues, shape, count - config.map.lifted) if searched else None
    later = None
    if body.lifter is not None:
        readings = hypotheses.read_keypoints(config, body, problem, cues, found.roll_mode if found else None)
        if config.map.lifted_ages:
            cues = hypotheses.with_read_ages(config, cues, readings[0])
            shape = named_shape(config, body, cues, jnp.asarray(variables.shape))
        later = hypotheses.lifted(config, body, problem, cues, readings, shape)
    if found is None:
        assert later is not None
        found = hypotheses.of_lifter(config, problem, cues, later, count - config.map.lifted)
    if given.landmarks is not None:
        found = hypotheses.with_landmarks(found, *given.landmarks)
    if later is not None and config.map.lifted:
        found = hypotheses.together(found, later)
    merged = Variables(*(jnp.where(known, a, b) for a, b in zip(own, found.variables, strict=True)))
    return hypotheses.Starts(merged, jnp.where(known, 0, found.reading), found.roll_mode), later, cues


def _at_age(body: MapBody, x: Float[Array, "D N"], base: Variables, age: Float[Array, ""]) -> Float[Array, "D N"]:
    """The bodies at another age phenotype: as tall as the population is then, and as large in the picture as before."""
    layout = body.plan.layout
    now = unpack(layout, x, base)
    shape = jnp.asarray(now.shape).at[AGE].set(age)
    shape = shape.at[HEIGHT].set(population_mean(body, shape[AGE], shape[GENDER])[0])
    ratio = body_height(body, shape) / body_height(body, now.shape)
    return pack(layout, now._replace(transl=now.transl * ratio, shape=shape))


def _take(values: Shaped[Array, "K *rest N"], which: Int[Array, "N"] | Array) -> Array:
    """Each person's values of one start."""
    which = jnp.broadcast_to(which, values.shape[-1:])
    index = jnp.broadcast_to(which, (1, *values.shape[1:]))
    return jnp.take_along_axis(values, index, axis=0)[0]


def _with_alternatives(
    settings: MapObjective, ends: _Ends, chosen: Int[Array, "N"], sd: Uncertainty
) -> tuple[Uncertainty, Float[Array, "N"]]:
    """Standard deviations that count the ends of the other starts, and how far their joints are from the chosen one's.

    Each weighs exp(-energy difference / `alternatives_nats`) at the end of the first half.
    """
    at_best = lambda v: v - _take(v, chosen)  # noqa: E731 (the answer has moved on since: ends are compared with its own)
    energy = jnp.nan_to_num(ends.energy, nan=1e6)
    weight = jax.nn.softmax(-energy / settings.alternatives_nats, axis=0)
    off = at_best(ends.keypoints)  # (K, 3, 17, N)
    between = (weight[:, None] * (off**2).sum(1)).sum(0)
    aligned = off - off[:, :, np.array(_HIPS)].mean(2, keepdims=True)
    spread = jnp.sqrt((weight[:, None] * (aligned**2).sum(1)).sum(0).mean(0))
    total = lambda own, other: jnp.sqrt(own**2 + other)  # noqa: E731
    return (
        Uncertainty(
            total(sd.sd_depth, (weight * at_best(ends.depth) ** 2).sum(0)),
            total(sd.sd_height, (weight * at_best(ends.height) ** 2).sum(0)),
            total(sd.sd_joints, between),
        ),
        spread,
    )


_HIPS = (COCO17.index("left_hip"), COCO17.index("right_hip"))


def _solve_released(config: FitConfig, body: ReleasedBody, problem: Problem, variables: Variables) -> SecondOrderFit:
    before, outcome = released.solve(config, body, problem, variables)
    unknown = jnp.full_like(outcome.energies[-1], jnp.nan)
    return SecondOrderFit(
        variables=outcome.variables,
        losses=(*before.losses, {"released": _by_scene(problem, outcome.energies)}),
        reprojection_px=reprojection_error(config, problem, outcome.keypoints),
        start_reprojection_px=before.start_reprojection_px,
        stage_variables=(*before.stage_variables, outcome.variables),
        keypoints=outcome.keypoints,
        height=body.fit.height(outcome.variables.shape),
        energy=outcome.energies[-1],
        converged=(outcome.promised < config.lm.converged_nats * outcome.energies[-1]).astype(unknown.dtype),
        depth_scale=unknown,
        visible_depth=unknown,
        uncertainty=Uncertainty(unknown, unknown, jnp.broadcast_to(unknown, outcome.keypoints.shape[1:])),
        spread=unknown,
        camera=jnp.broadcast_to(unknown, (NUM_SCENE, len(unknown))),
    )


def _by_scene(problem: Problem, energies: Float[Array, "step N"]) -> Float[Array, "step scene"]:
    sums = jax.ops.segment_sum(energies.T, problem.scene, num_segments=problem.num_scenes)
    return sums.T


def reprojection_error(
    config: FitConfig,
    problem: Problem,
    keypoints: Float[Array, "3 17 N"],
    log_focal: Float[Array, "N"] | float = 0.0,
    reading: Int[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """Mean pixel distance of confident COCO-17 keypoints to their projections; NaN where there is none."""
    k = jnp.asarray(problem.cues.intrinsics)
    scaled = jnp.concatenate([k[:, :2] * jnp.exp(log_focal), k[:, 2:]], axis=1)
    k = jnp.concatenate([scaled[:2], k[2:]])
    problem = problem if reading is None else hypotheses.read(problem, reading)
    projected = jax.vmap(project, in_axes=-1, out_axes=-1)(keypoints, k)
    distance = jnp.sqrt(((projected - problem.cues.keypoints_px) ** 2).sum(0))
    seen = problem.cues.keypoint_confidence >= config.keypoint_confidence
    return jnp.where(seen, distance, 0.0).sum(0) / jnp.where(seen.any(0), seen.sum(0), jnp.nan)
