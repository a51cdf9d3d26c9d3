"""Anny-Fit in PyTorch, as a careful user would write it today: what `experiments.benchmarks.benchmark` compares with.

Written from the formulas of the released optimiser (the same ones as `annyfit_jax.fit.objective`): one pose tensor for all
bones, the `anny` package with its compact phenotype basis and `warp_lbs` skinning, every vertex in the mesh regulariser at
every step, `torch.optim.Adam`. No body model in the first stage, where bodies only shift. Any number of scenes in one flat
list of people, so one scene at a time and a batch are the same code.

Needs torch and anny, and nothing of JAX: it runs in an interpreter of its own, as a worker of the benchmark,

    python -m experiments.benchmarks.torch_baseline --serve
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import anny
    import torch
except ImportError as error:  # pragma: no cover - the message is the point
    raise ImportError(
        "experiments.benchmarks.torch_baseline needs torch and anny: pip install torch==2.13.0 anny==0.6.2"
    ) from error

COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
GROUPS = ("transl", "root_rotvec", "shape", "pose")
JOINT_LIMIT = float(np.float32(np.pi))
GENDER, AGE = 0, 1
"""Columns of the shape that words anchor."""


class Cues(NamedTuple):
    """The evidence of N people of several scenes, one flat list, people first."""

    intrinsics: torch.Tensor
    """(N, 3, 3)"""
    keypoints: torch.Tensor
    """(N, 17, 3) x, y, confidence, pixels."""
    dense: torch.Tensor
    """(N, 138, 3)"""
    word_target: torch.Tensor
    """(N, 2) anchors of gender and age."""
    word_weight: torch.Tensor
    """(N, 2) 1 / (usable answers of the scene), 0 where there is none."""
    person_weight: torch.Tensor
    """(N,) 1 / (people of the scene)."""
    pair: torch.Tensor
    """(2, P) people of each within-scene pair."""
    pair_gap: torch.Tensor
    """(P,) difference of their depth cues, metres."""
    pair_scene: torch.Tensor
    """(P,)"""
    num_scenes: int


class Clamp(torch.autograd.Function):
    """Clip whose gradient passes except where it would push further out of the range (boundaries included)."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        (g,) = grad_outputs
        (x,) = ctx.saved_tensors
        low, high = ctx.range
        return g.masked_fill(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)), 0.0), None, None


def rotation_matrices(rotvec: torch.Tensor) -> torch.Tensor:
    """(..., 3) axis-angle -> (..., 3, 3): Rodrigues' cos I + sinc [v] + (1 - cos) / |v|^2 v v^T; I + [v] below 1e-6 rad."""
    squared = (rotvec * rotvec).sum(-1)
    small = squared < 1e-12
    squared = torch.where(small, torch.ones_like(squared), squared)
    angle = squared.sqrt()
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    cosine = torch.where(small, one, angle.cos())
    sinc = torch.where(small, one, angle.sin() / angle)
    versed = torch.where(small, zero, 2.0 * (0.5 * angle).sin() ** 2 / squared)
    x, y, z = (sinc[..., None] * rotvec).unbind(-1)
    skew = torch.stack((cosine, -z, y, z, cosine, -x, -y, x, cosine), -1).unflatten(-1, (3, 3))
    return skew + versed[..., None, None] * rotvec[..., :, None] * rotvec[..., None, :]


class TorchBody:
    """The `anny` package's body with the points that the objective reads."""

    def __init__(
        self,
        dense_vertices: np.ndarray,
        frozen_bones: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        cache: str | Path | None = None,
        skinning: str = "warp_lbs",
    ) -> None:
        """
        Args:
          dense_vertices: (138,) vertices of the dense points.
          frozen_bones: bones whose name starts with one of these never move.
          cache: folder of the package's derived files (minutes to make; kept between runs).
        """
        if cache is not None:
            anny.paths.set_anny_cache_path(cache)
        self.device, self.dtype = torch.device(device), dtype
        self.model = anny.Anny(
            rig="makehuman", topology="anny", pose_parameterization="local-bone", skinning_method=skinning,
            phenotype_blendshapes="compact",
        ).to(dtype=dtype, device=self.device)  # fmt: skip
        self.model.requires_grad_(False)
        regressor = anny.KeypointsRegressor.coco(self.model, labels=list(COCO17))
        self.regressor = regressor.regression_weights.to(dtype=dtype, device=self.device)
        self.dense_vertices = torch.as_tensor(np.asarray(dense_vertices), dtype=torch.int64, device=self.device)
        self.bones = tuple(self.model.bone_labels[1:])
        free = [k for k, bone in enumerate(self.bones) if not bone.startswith(tuple(frozen_bones))]
        self.free_bones = torch.tensor(free, dtype=torch.int64, device=self.device)

    def vertices(
        self, shape: torch.Tensor, root_rotvec: torch.Tensor, pose: torch.Tensor, transl: torch.Tensor
    ) -> torch.Tensor:
        """(N, 6), (N, 3), (N, 162, 3), (N, 3) -> (N, V, 3) vertices in camera space, metres."""
        rotations = rotation_matrices(torch.cat([root_rotvec[:, None], pose], 1))
        shift = torch.cat([transl[:, None], transl.new_zeros(len(transl), rotations.shape[1] - 1, 3)], 1)
        # The package reads the upper three rows of the homogeneous matrices.
        return self.model(
            pose_parameters=torch.cat([rotations, shift[..., None]], -1), phenotype_kwargs=shape
        )["vertices"]  # fmt: skip

    def points(self, vertices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, V, 3) -> COCO-17 keypoints (N, 17, 3), dense points (N, 138, 3)."""
        return torch.einsum("kv,nvc->nkc", self.regressor, vertices), vertices[:, self.dense_vertices]


# ------------------------------------------------------------------------------------------------ the energy


def reprojection(points: torch.Tensor, intrinsics: torch.Tensor, cue: torch.Tensor, sigma: float, threshold: float):
    """(N,) mean over ALL points of the Geman-McClure reprojection error; points below the threshold count as 0."""
    projected = torch.einsum("nij,nkj->nki", intrinsics, points / points[..., 2:])[..., :2]
    confidence = cue[..., 2].clamp(min=0.0)
    squared = confidence**2 * ((projected - cue[..., :2]) ** 2).sum(-1)
    robust = sigma**2 * squared / (sigma**2 + squared)
    return torch.where(cue[..., 2] >= threshold, robust, torch.zeros_like(robust)).mean(-1)


def depth_order(depth: torch.Tensor, cues: Cues, equal: float, margin: float) -> torch.Tensor:
    """Sum over scenes of the mean ranking loss of the pairs that are not dropped."""
    if not len(cues.pair_gap):
        return depth.new_zeros(())
    p, gap = depth[cues.pair[0]] - depth[cues.pair[1]], cues.pair_gap
    excess = p.detach() - margin * gap
    is_equal = gap.abs() <= equal
    closer = (gap < -equal) & (excess > 0)
    further = (gap > equal) & (excess < 0)
    ranked = torch.nn.functional.softplus(torch.where(further, -p, p))
    active = (is_equal | closer | further).to(depth.dtype)
    count = depth.new_zeros(cues.num_scenes).index_add(0, cues.pair_scene, active)
    value = active * torch.where(is_equal, p * p, ranked)
    return (depth.new_zeros(cues.num_scenes).index_add(0, cues.pair_scene, value) / count.clamp(min=1.0)).sum()


def fit(body: TorchBody, cues: Cues, start: dict[str, torch.Tensor], config: dict[str, Any]):
    """All stages of a config (`annyfit_jax.fit.config.to_json`) with Adam; the scenes' energies add up.

    Args:
      start: `GROUPS` by name, people first, words already inserted.
    Returns: (final parameters by group, total energy before each step, parameters after each stage).
    """
    now = {name: start[name].clone() for name in GROUPS}
    totals: list[torch.Tensor] = []
    after = []
    for stage in config["stages"]:
        now = _fit_stage(body, cues, now, config, stage, totals)
        after.append(now)
    return now, (torch.stack(totals) if totals else torch.zeros(0)), after


def _fit_stage(body: TorchBody, cues: Cues, start, config, stage, totals) -> dict[str, torch.Tensor]:
    weights, lr = stage["weights"], stage["lr"]
    unknown = set(weights) - {"keypoints", "dense", "pose_prior", "shape_prior", "mesh_prior", "words", "depth_order"}
    if unknown:
        raise ValueError(f"stage {stage['name']!r}: the torch baseline has no terms {sorted(unknown)}")
    weigh = lambda name: weights.get(name, 0.0)  # noqa: E731
    free = {name: start[name].clone() for name in lr}
    if "pose" in free:
        free["pose"] = start["pose"][:, body.free_bones].clone()
    if not stage["steps"] or not free:
        return start
    for value in free.values():
        value.requires_grad_(True)

    def join() -> dict[str, torch.Tensor]:
        now = {**start, **free}
        if "pose" in free:
            now["pose"] = start["pose"].index_copy(1, body.free_bones, free["pose"])
        return now

    def mesh(p: dict[str, torch.Tensor]) -> torch.Tensor:
        shape, pose = Clamp.apply(p["shape"], 0.0, 1.0), Clamp.apply(p["pose"], -JOINT_LIMIT, JOINT_LIMIT)
        return body.vertices(shape, p["root_rotvec"], pose, p["transl"])  # type: ignore[arg-type]

    with torch.no_grad():
        start_mesh = mesh(start)
        start_points = body.points(start_mesh)
        weight_sum = body.regressor.sum(1)[None, :, None]
    only_shifts = set(free) == {"transl"} and not weigh("mesh_prior")
    optimiser = torch.optim.Adam([{"params": [free[name]], "lr": lr[name]} for name in free])
    for _ in range(stage["steps"]):
        now = join()
        if only_shifts:
            shift = (now["transl"] - start["transl"])[:, None]
            moved = start_mesh
            keypoints, dense = start_points[0] + weight_sum * shift, start_points[1] + shift
        else:
            moved = mesh(now)
            keypoints, dense = body.points(moved)
        sigma = config["sigma_px"]
        each = weigh("keypoints") * reprojection(
            keypoints, cues.intrinsics, cues.keypoints, sigma, config["keypoint_confidence"]
        ) + weigh("dense") * reprojection(dense, cues.intrinsics, cues.dense, sigma, -math.inf)
        if "pose" in free:
            each = each + weigh("pose_prior") * ((now["pose"] - start["pose"]) ** 2).sum((1, 2))
        if "shape" in free:
            each = each + weigh("shape_prior") * ((now["shape"] - start["shape"]) ** 2).sum(1)
        if weigh("mesh_prior"):
            each = each + weigh("mesh_prior") * ((moved - start_mesh) ** 2).sum((1, 2))
        total = (cues.person_weight * each).sum()
        if weigh("words"):
            anchored = now["shape"][:, [GENDER, AGE]]
            total = total + weigh("words") * (cues.word_weight * (anchored - cues.word_target) ** 2).sum()
        if weigh("depth_order"):
            ranking = depth_order(now["transl"][:, 2], cues, config["equal_depth_m"], config["depth_margin"])
            total = total + weigh("depth_order") * ranking
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        totals.append(total.detach())
    with torch.no_grad():
        return {name: value.detach() for name, value in join().items()}


# ------------------------------------------------------------------------------------------------ flat lists


def flatten(
    scenes: dict[str, np.ndarray], dtype: torch.dtype, device: torch.device
) -> tuple[Cues, dict[str, torch.Tensor]]:
    """Cues and start of a problem file.

    Args:
      scenes: `counts` (people per scene), and with people first `intrinsics` (N, 3, 3), `keypoints` (N, 17, 3), `dense`
        (N, 138, 3), `depth` (N,) with NaN = unknown, `words` (N, 2) gender and age anchors with -1 = unusable, and `GROUPS`.
    """
    counts = np.asarray(scenes["counts"])
    scene = np.repeat(np.arange(len(counts)), counts)
    words = scenes["words"].astype(np.float32)
    usable = words >= 0
    answers = np.bincount(scene, usable.sum(1), len(counts))[scene]
    first, second = [], []
    for offset, n in zip(np.cumsum(counts) - counts, counts):
        i, j = np.triu_indices(n, 1)
        first.append(i + offset)
        second.append(j + offset)
    pair = np.stack([np.concatenate(first), np.concatenate(second)]).astype(np.int64)
    np_dtype = np.float64 if dtype == torch.float64 else np.float32
    depth = scenes["depth"].astype(np_dtype)
    pair = pair[:, np.isfinite(depth[pair]).all(0)]
    to = lambda x: torch.as_tensor(np.ascontiguousarray(x), dtype=dtype, device=device)  # noqa: E731
    index = lambda x: torch.as_tensor(np.ascontiguousarray(x), device=device)  # noqa: E731
    cues = Cues(
        intrinsics=to(scenes["intrinsics"]),
        keypoints=to(scenes["keypoints"]),
        dense=to(scenes["dense"]),
        word_target=to(np.where(usable, words, 0.0)),
        word_weight=to(usable / np.maximum(answers, 1)[:, None]),
        person_weight=to(1.0 / counts[scene]),
        pair=index(pair),
        pair_gap=to(depth[pair[0]] - depth[pair[1]]),
        pair_scene=index(scene[pair[0]]),
        num_scenes=len(counts),
    )
    return cues, {name: to(scenes[name]) for name in GROUPS}


def select_scenes(scenes: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    """The problem of some of its scenes, in the order given."""
    counts = np.asarray(scenes["counts"])
    owner = np.repeat(np.arange(len(counts)), counts)
    rows = np.concatenate([np.flatnonzero(owner == k) for k in chosen])
    per_person = {name: value[rows] for name, value in scenes.items() if name != "counts"}
    return {"counts": counts[chosen], **per_person}


# ------------------------------------------------------------------------------------------------ worker


class Worker:
    """Commands of the benchmark; see `experiments.benchmarks.benchmark_worker`."""

    def __init__(self) -> None:
        self.body: TorchBody | None = None
        self.scenes: dict[str, np.ndarray] = {}
        self.config: dict[str, Any] = {}
        self.fields: dict[int, dict[str, torch.Tensor]] = {}

    def setup(self, problem: str, config: dict, cache: str, device: str = "cpu", threads: int = 1) -> dict:
        """Load the body and the problem file (an npz as in `flatten`, with `dense_vertices`)."""
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # only the first setup of a process may set it
            torch.set_num_interop_threads(1)
        with np.load(problem, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        dense = arrays.pop("dense_vertices")
        self.scenes, self.config = arrays, config
        self.body = TorchBody(dense, tuple(config["frozen_bones"]), device=device, cache=cache)
        return {
            "torch": torch.__version__,
            "anny": anny.__version__,
            "torch threads": torch.get_num_threads(),
            "anny phenotype rows": int(self.body.model.blendshapes.shape[0]),
            "anny_data": str(anny.paths.get_anny_root_dir()),
        }

    def fit(self, scenes: list[int], output: str | None = None) -> dict:
        """Fit the named scenes as one batch; parameters are written to `output` (npz)."""
        assert self.body is not None
        from experiments.benchmarks.benchmark_worker import Stopwatch

        with Stopwatch(self._synchronise) as watch:
            chosen = select_scenes(self.scenes, np.asarray(scenes))
            cues, start = flatten(chosen, self.body.dtype, self.body.device)
            end, _, _ = fit(self.body, cues, start, self.config)
        if output:
            np.savez(output, **{name: value.cpu().numpy() for name, value in end.items()})  # type: ignore[arg-type]
        return {**watch.times, "people": int(chosen["counts"].sum())}

    def fit_steps(self, scenes: list[int], steps: int) -> dict:
        """A fit with few steps per stage: compiles the skinning kernel and warms the allocator up."""
        assert self.body is not None
        cues, start = flatten(select_scenes(self.scenes, np.asarray(scenes)), self.body.dtype, self.body.device)
        stages = [{**stage, "steps": steps} for stage in self.config["stages"]]
        fit(self.body, cues, start, {**self.config, "stages": stages})
        return {}

    def body_setup(self, batch: int, whats: list[str] | None = None) -> dict:
        """Inputs of the body timings: the first `batch` people of the problem (repeated where there are fewer)."""
        assert self.body is not None
        body, rows = self.body, np.arange(batch) % len(self.scenes["transl"])
        to = lambda x: torch.as_tensor(x[rows], dtype=body.dtype, device=body.device)  # noqa: E731
        self.fields[batch] = {name: to(self.scenes[name]) for name in GROUPS}
        results = {what: self._body(what, batch) for what in whats or ["forward", "coco", "points", "mesh"]}
        return {"values": {what: float((x**2).mean() if what == "forward" else x) for what, x in results.items()}}

    def body_run(self, what: str, repeats: int, batch: int) -> dict:
        """Time `repeats` runs of `forward`, `coco`, `points` (COCO-17 and dense) or `mesh` gradients."""
        from experiments.benchmarks.benchmark_worker import Stopwatch

        self._body(what, batch)
        with Stopwatch(self._synchronise) as watch:
            for _ in range(repeats):
                self._body(what, batch)
        return {name: value / repeats for name, value in watch.times.items()}

    def _body(self, what: str, batch: int) -> torch.Tensor:
        assert self.body is not None
        body, order = self.body, ("shape", "root_rotvec", "pose", "transl")
        if what == "forward":
            with torch.no_grad():
                return body.vertices(*(self.fields[batch][name] for name in order))
        leaves = {name: value.clone().requires_grad_(True) for name, value in self.fields[batch].items()}
        vertices = body.vertices(*(leaves[name] for name in order))
        if what == "mesh":
            scalar = (vertices**2).mean()
        else:
            keypoints, dense = body.points(vertices)
            scalar = (keypoints**2).sum() + ((dense**2).sum() if what == "points" else 0.0)
        scalar.backward()
        return scalar.detach()

    def _synchronise(self) -> None:
        if self.body is not None and self.body.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    from experiments.benchmarks.benchmark_worker import serve

    serve(Worker())
