"""Synthetic scenes with exact truth: random people on a ground plane, and noisy cues of them. No rendering, no torch.

Numbers (noise levels, shares, biases) are those of the shared development scenes:

| cue | error |
|---|---|
| keypoints, dense points | 2 to 6 px for a person 300 px tall, in proportion to size, at least 1.2 px; hidden points 2.5 x, dense points that face away 1.4 x; 6 % of joints missed, 2 % (dense: 1 %) wild by 0.3 of the person's extent; confidences say so |
| median depth | median over the visible dense points x one scale error per scene (5 %) x one per person (1.5 %) |
| words | 12 % one age class off, 3 % unusable; sex of babies and toddlers 45 % `neutral`, 10 % wrong; others 5 %, 4 % |
| start | everybody an average adult (`bias` 1; 0 = the true age), pose off by 0.04 to 0.12 rad per bone axis, root by 0.1 rad; the translation makes this body fit the image, so that a toddler at 4 m starts at 9 m; then 8 % along the ray |

People per image follow `COCO_SHARES`. Who hides whom is decided by capsules around the limbs. Scene i of a seed is always
the same, however the work is cut: its random numbers are its own, and bodies are evaluated in blocks of scenes fixed by i.
"""  # noqa: E501 (table rows)

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from annyfit_jax.people.camera import intrinsics_from_fov, project
from annyfit_jax.people.dense_points import dense_vertex_indices
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene
from annyfit_jax.synthetic import plain_cues as cues
from annyfit_jax.synthetic.body_chunks import concatenate, in_chunks, rounded, single, size_basis, sizes
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE, Phenotypes, PoseSampler, draw_phenotypes
from body_models import anny

GENERATOR_VERSION = 1
COCO_SHARES = np.array([0.42, 0.20, 0.11, 0.07, 0.05, 0.04, *[0.11 / 14] * 14])
"""Share of images with 1, 2, .. 20 people; mean 3.4."""
IMAGE_SIZES = ((640, 480), (1280, 960), (480, 640), (1024, 768))
FOV_DEGREES = (40.0, 75.0)
CAMERA_HEIGHT_M = (0.9, 1.9)
CAMERA_TILT = (-0.02, 0.30)
"""Radians, positive looks down."""
_BLOCK = 64
"""Scenes whose bodies are evaluated together; boundaries at multiples of it."""
_FACING_CAMERA = np.array([np.pi / 2, 0.0, 0.0])
_EARS = [COCO17.index("left_ear"), COCO17.index("right_ear")]


@dataclass(frozen=True)
class Recipe:
    """What to generate."""

    seed: int
    people: tuple[int, ...] = ()
    """Numbers of people to choose from with equal shares; empty = `COCO_SHARES`."""
    bias: tuple[float, float] = (1.0, 1.0)
    """Range of the start's adult bias: 1 = an average adult, 0 = the true age."""


@dataclass
class _Draft:
    """A scene before its bodies are evaluated; n people."""

    rng: np.random.Generator
    image_size: tuple[int, int]
    intrinsics: np.ndarray
    camera_height: float
    tilt: float
    phenotypes: Phenotypes
    truth: BodyParameters
    start: BodyParameters


@dataclass
class _Bodies:
    """Evaluated bodies of one scene, root at the origin."""

    joints: np.ndarray
    """(n, 17, 3)."""
    dense: np.ndarray
    """(n, 138, 3)."""
    normals: np.ndarray
    """(n, 138, 3) outward, not of unit length."""
    height: np.ndarray
    """(n,) of the resting body."""
    head: np.ndarray
    """(n,) length of the head, neck bone to crown, resting."""
    start_joints: np.ndarray
    """(n, 17, 3) of the start."""


class Generator:
    """Scenes of a recipe. Holds the body model and its compiled points."""

    def __init__(self, recipe: Recipe, model: anny.AnnyModel | None = None) -> None:
        self.recipe = recipe
        self._model = anny.load() if model is None else model
        self._sampler = PoseSampler(self._model)
        joints = np.asarray(self._model.keypoint_regressor)[: len(COCO17)]
        dense = dense_vertex_indices()
        corners = _triangles_at(np.asarray(self._model.faces), dense)
        surface = anny.vertex_regressor(self._model, np.concatenate([dense, corners.ravel()]))
        self._body = functools.partial(
            jax.jit(anny.points), anny.contract(self._model, np.concatenate([joints, surface]))
        )
        self._start = functools.partial(jax.jit(anny.points), anny.contract(self._model, joints))
        self._sizes = functools.partial(jax.jit(sizes), size_basis(self._model), self._model.rest)
        self._block = functools.lru_cache(maxsize=2)(self._make_block)

    def with_recipe(self, recipe: Recipe) -> Generator:
        """A generator of another recipe that shares this one's compiled bodies."""
        other = copy.copy(self)
        other.recipe = recipe
        other._block = functools.lru_cache(maxsize=2)(other._make_block)
        return other

    def scenes(self, indices: Sequence[int]) -> Iterator[Scene]:
        """Scenes `indices` of the recipe."""
        for index in indices:
            draft, bodies = self._block(index // _BLOCK)[index % _BLOCK]
            # A copy of the generator: a block may be asked twice.
            rng = np.random.default_rng()
            rng.bit_generator.state = draft.rng.bit_generator.state
            yield _scene(self.name(index), draft, bodies, rng)

    def name(self, index: int) -> str:
        """Name of a scene."""
        return f"synthetic_{self.recipe.seed}_{index:07d}"

    def _make_block(self, block: int) -> list[tuple[_Draft, _Bodies]]:
        drafts = [self._draft(index) for index in range(block * _BLOCK, (block + 1) * _BLOCK)]
        counts = np.cumsum([len(draft.truth) for draft in drafts])[:-1]
        truth = concatenate([draft.truth for draft in drafts])
        start = concatenate([draft.start for draft in drafts])
        points = in_chunks(self._body, truth)
        joints, dense, corners = np.split(points, [len(COCO17), len(COCO17) + len(dense_vertex_indices())], axis=1)
        corners = corners.reshape(len(points), -1, 2, 3)
        normals = np.cross(corners[:, :, 0] - dense, corners[:, :, 1] - dense)
        measured = in_chunks(lambda p: self._sizes(p.phenotypes), truth)
        parts = (joints, dense, normals, measured[:, 0], measured[:, 1], in_chunks(self._start, start))
        split = [np.split(part, counts) for part in parts]
        return [(draft, _Bodies(*(part[i] for part in split))) for i, draft in enumerate(drafts)]

    def _draft(self, index: int) -> _Draft:
        recipe = self.recipe
        rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, index]))
        if recipe.people:
            n = int(rng.choice(recipe.people))
        else:
            n = 1 + int(rng.choice(len(COCO_SHARES), p=COCO_SHARES))
        image_size = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
        intrinsics = intrinsics_from_fov(image_size, rng.uniform(*FOV_DEGREES))
        height, tilt = rng.uniform(*CAMERA_HEIGHT_M), rng.uniform(*CAMERA_TILT)
        phenotypes = draw_phenotypes(rng, n)
        pose = self._sampler.draw(rng, phenotypes.age <= 1)
        yaw = np.zeros((n, 3))
        yaw[:, 2] = rng.normal(0.0, 0.9, n)
        upright = Rotation.from_rotvec([tilt, 0.0, 0.0]) * Rotation.from_rotvec(_FACING_CAMERA)
        root = upright * Rotation.from_rotvec(yaw) * Rotation.from_rotvec(rng.normal(0.0, 0.06, (n, 3)))
        zero = np.zeros((n, 3))
        bias = rng.uniform(*recipe.bias, n)
        shape = np.tile(ADULT_AVERAGE, (n, 1))
        shape[:, 1] = bias * ADULT_AVERAGE[1] + (1 - bias) * phenotypes.shape[:, 1]
        error = rng.normal(size=pose.shape) * self._sampler.estimate_error[:, None]
        start_root = root * Rotation.from_rotvec(rng.normal(0.0, 0.1, (n, 3)))
        start_pose = Rotation.from_rotvec(pose) * Rotation.from_rotvec(error)
        start = BodyParameters(start_root.as_rotvec(), zero, start_pose.as_rotvec(), shape)
        truth = BodyParameters(root.as_rotvec(), zero, pose, phenotypes.shape)
        return _Draft(rng, image_size, intrinsics, height, tilt, phenotypes, rounded(truth), rounded(start))


def _scene(name: str, draft: _Draft, bodies: _Bodies, rng: np.random.Generator) -> Scene:
    """Places the people and observes them."""
    n, size, k = len(draft.truth), draft.image_size, draft.intrinsics
    surface = np.concatenate([bodies.joints, bodies.dense], axis=1)
    translation = single(cues.place(rng, surface, size, k, draft.camera_height, draft.tilt))
    joints, dense = (points + translation[:, None] for points in (bodies.joints, bodies.dense))
    joints_px, dense_px = project(joints, k), project(dense, k)
    hidden = cues.hidden(surface + translation[:, None], joints, k)
    joints_hidden, dense_hidden = hidden[:, : len(COCO17)], hidden[:, len(COCO17) :]
    away = (bodies.normals * dense).sum(-1) > 0
    extent = np.ptp(dense_px, axis=1).max(-1)
    sigma = (rng.uniform(2.0, 6.0, n) * extent / 300.0).clip(1.2, 6.0 * size[0] / 640)
    keypoints = cues.detect_keypoints(rng, joints_px, joints_hidden, sigma, extent, size)
    points = cues.detect_dense(rng, dense_px, dense_hidden, away, sigma, extent, size)
    visible = cues.inside(joints_px, size) & ~joints_hidden
    depth = cues.median_depth(rng, dense[..., 2], cues.inside(dense_px, size) & ~dense_hidden & ~away)
    age, gender = cues.words(rng, draft.phenotypes.age, draft.phenotypes.gender)
    start = cues.fit_translation(bodies.start_joints, joints_px, k, np.where(visible, 1.0, 0.15))
    start = start * np.exp(rng.normal(0.0, 0.08, (n, 1)))
    start[:, :2] += rng.normal(0.0, 0.02, (n, 2)) * start[:, 2:]
    focal = 0.5 * (k[0, 0] + k[1, 1])
    return Scene(
        name=name,
        image_size=size,
        intrinsics=k,
        keypoints=single(keypoints),
        dense_keypoints=single(points),
        median_depth=single(depth),
        depth_layer=np.full(n, -1, np.int64),
        age=age,
        gender=gender,
        start=dataclasses.replace(draft.start, transl=single(start)),
        truth=dataclasses.replace(draft.truth, transl=translation),
        person_ids=[str(person) for person in range(n)],
        boxes=single(cues.boxes(dense_px, size)),
        extra={
            "gt_coco3d": single(joints),
            "gt_coco2d": single(joints_px),
            "gt_visible": visible,
            "gt_head_px": single(focal * bodies.head / joints[:, _EARS, 2].mean(1)),
            "gt_body_height": single(bodies.height),
            "gt_age_cat": draft.phenotypes.age.astype(np.int64),
            "gt_gender_cat": draft.phenotypes.gender.astype(np.int64),
        },
    )


def _triangles_at(faces: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """(k, 2) the two next vertices of one triangle at each vertex, in the triangle's sense."""
    corner = np.full(faces.max() + 1, -1)
    flat = faces.ravel()
    corner[flat[::-1]] = np.arange(flat.size)[::-1]
    triangle, place = np.divmod(corner[vertices], 3)
    return np.stack([faces[triangle, (place + 1) % 3], faces[triangle, (place + 2) % 3]], axis=1)
