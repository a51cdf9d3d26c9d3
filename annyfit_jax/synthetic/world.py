"""Rendered scenes with exact truth: families and groups of all ages on the ground, a picture, masks, depth, and noisy cues.

    world = World(seed=1, config=preset("standard"))
    for scene in world.scenes(range(10)):
        scene.image, scene.masks, scene.depth_map, scene.keypoints, scene.truth, ...

Scene i of a seed and a config is always the same, however the work is cut: its random numbers are its own (apart for
geometry, looks, cues and start: a change of one leaves the others as they are), and bodies are evaluated in blocks of scenes
fixed by i. Truth beyond what every cue dataset holds is in `Scene.extra`:

| key | shape | meaning |
|---|---|---|
| `gt_age_years`, `gt_mass_kg` | (n,) | drawn age; mass of the body |
| `gt_joint_visibility` | (n, 17) | 0 outside, 1 hidden behind others or things, 2 behind the own body, 3 visible |
| `gt_visible_share` | (n,) | share of the surface towards the camera that is in the picture and not hidden |
| `gt_posture`, `gt_group` | (n,), (1,) | names |
| `gt_parts3d`, `gt_parts_seen` | (n, 116, 3), (n, 116) | with `pose.whole_body`: feet, face, hands; which are seen |
| `gt_ground` | (4,) | upward unit normal and height of the camera: n . x + d = 0 on the ground, camera axes |

`gt_visible` is that a joint is in the picture and nobody else is in front of it, as in the other synthetic sets.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from annyfit_jax.people.camera import project
from annyfit_jax.people.dense_points import dense_vertex_indices
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene
from annyfit_jax.records.encoded_pictures import PICTURE_QUALITY, encoded
from annyfit_jax.synthetic import floor_contact, layout, render, world_cameras, world_cues
from annyfit_jax.synthetic.body_chunks import Sizer, concatenate, in_chunks, rounded, single, surface_points
from annyfit_jax.synthetic.looks import draw_looks
from annyfit_jax.synthetic.moving_parts import WholeBodies
from annyfit_jax.synthetic.plain_cues import fit_translation
from annyfit_jax.synthetic.population import FEMALE, People, age_class, draw_people, solve_phenotypes
from annyfit_jax.synthetic.postures import PoseSampler, Posture
from annyfit_jax.synthetic.render_mesh import RenderMesh, load_render_mesh
from annyfit_jax.synthetic.scenery import draw_scenery
from annyfit_jax.synthetic.world_cameras import Camera
from annyfit_jax.synthetic.world_config import WorldConfig, describe, preset
from body_models import anny

WORLD_VERSION = 4
"""Part of a dataset's fingerprint: raised with every change of what a seed gives."""
_BLOCK = 16
"""Scenes whose bodies are evaluated together; boundaries at multiples of it."""
_GEOMETRY, _LOOKS, _CUES, _START, _START_PLACE, _PARTS, _PART_CUES = range(7)
_REFERENCE_PIXELS = 448 * 448
_EARS = [COCO17.index("left_ear"), COCO17.index("right_ear")]
_NUM_JOINTS = len(COCO17)
_HIDDEN_WEIGHT = 0.15


@dataclass
class RenderedScene(Scene):
    """A scene with its picture."""

    image: UInt8[np.ndarray, "H W 3"] | None = None
    jpeg_quality: int = 90
    true_depth: Float[np.ndarray, "H W"] | None = None
    """Metric depth without noise, metres; inf = sky."""


@dataclass
class _Draft:
    """A scene in the making; n people."""

    rng: np.random.Generator
    people: People
    shape: np.ndarray
    postures: list[Posture]


@dataclass
class _Placed:
    """A scene's geometry in camera axes."""

    people: People
    postures: list[Posture]
    camera: Camera
    truth: BodyParameters
    start: BodyParameters
    """Without translation."""
    joints: np.ndarray
    dense: np.ndarray
    surface: np.ndarray
    """(n, v, 3) vertices of the render mesh."""
    boxes: np.ndarray
    """(b, 8, 3)."""
    sizes: np.ndarray
    """(n, 3) height, mass, head length."""
    start_joints: np.ndarray
    """(n, 17, 3) of the start about its root."""
    farthest: float
    """Largest world y of a vertex."""


class World:
    """Scenes of a seed and a config. Holds the body model and its compiled points."""

    def __init__(self, seed: int, config: WorldConfig | None = None, model: anny.AnnyModel | None = None) -> None:
        self.seed, self.config = seed, preset("standard") if config is None else config
        model = anny.load() if model is None else model
        self.mesh: RenderMesh = load_render_mesh(model)
        self._sampler = PoseSampler(model, self.config.pose)
        self._whole = functools.lru_cache(maxsize=1)(lambda: WholeBodies(model))
        joints = np.asarray(model.keypoint_regressor)[:_NUM_JOINTS]
        surface = np.concatenate([dense_vertex_indices(), self.mesh.vertices])
        points = jax.jit(anny.points)
        self._points = functools.partial(points, surface_points(model, joints, surface))
        self._joints = functools.partial(points, surface_points(model, joints, surface[:0]))
        self._sizer = Sizer(model, self.mesh.vertices, self.mesh.faces)
        self._block = functools.lru_cache(maxsize=2)(self._make_block)

    def with_config(self, config: WorldConfig, seed: int | None = None) -> World:
        """A world of another config (and seed) that shares this one's compiled bodies."""
        other = copy.copy(self)
        other.config, other.seed = config, self.seed if seed is None else seed
        other._sampler = self._sampler.with_config(config.pose)
        other._block = functools.lru_cache(maxsize=2)(other._make_block)
        return other

    def fingerprint(self) -> dict:
        """JSON that names what the scenes are: equal fingerprints, equal scenes."""
        return {"world": WORLD_VERSION, "seed": self.seed, "config": describe(self.config)}

    def name(self, index: int) -> str:
        """Name of a scene."""
        return f"world_{self.config.name}_{self.seed}_{index:07d}"

    def scenes(self, indices: Sequence[int]) -> Iterator[RenderedScene]:
        """Scenes `indices`."""
        for index in indices:
            yield self._scene(index, self._block(index // _BLOCK)[index % _BLOCK])

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, index, stream]))

    # -------------------------------------------------------------------------------------------- geometry

    def _make_block(self, block: int) -> list[_Placed]:
        indices = range(block * _BLOCK, (block + 1) * _BLOCK)
        drafts = [self._draft(index) for index in indices]
        counts = np.cumsum([len(draft.people) for draft in drafts])[:-1]
        everybody = _joined([draft.people for draft in drafts])
        sizer = self._sizer
        shape = single(solve_phenotypes(everybody, sizer.height, sizer.mass))
        sizes = np.split(np.stack([sizer.height(shape), sizer.mass(shape), sizer.head(shape)], axis=1), counts)
        for draft, rows in zip(drafts, np.split(shape, counts)):
            draft.shape = rows
        zero = [np.zeros((len(draft.people), 3)) for draft in drafts]
        upright = [
            BodyParameters(z, z, single(np.stack([p.pose for p in draft.postures])), draft.shape)
            for draft, z in zip(drafts, zero)
        ]
        points = np.split(in_chunks(self._points, concatenate(upright)), counts)
        placed = [
            self._place(index, draft, body, p, s)
            for index, draft, body, p, s in zip(indices, drafts, upright, points, sizes)
        ]
        starts = np.split(in_chunks(self._joints, concatenate([scene.start for scene in placed])), counts)
        return [dataclasses.replace(scene, start_joints=joints) for scene, joints in zip(placed, starts)]

    def _draft(self, index: int) -> _Draft:
        rng = self._rng(index, _GEOMETRY)
        people = draw_people(rng, self.config.people)
        people = _select(people, rng.permutation(len(people)))
        postures = [self._sampler.draw(rng, years) for years in people.years]
        if self.config.pose.whole_body:
            poses = self._whole().moved(np.stack([p.pose for p in postures]), self._rng(index, _PARTS))
            postures = [dataclasses.replace(p, pose=pose) for p, pose in zip(postures, poses, strict=True)]
        return _Draft(rng, people, np.zeros((len(people), 6)), postures)

    def _place(self, index: int, draft: _Draft, body: BodyParameters, points: np.ndarray, sizes: np.ndarray) -> _Placed:
        """Settles the bodies (points about their upright roots), arranges them and points a camera at them."""
        rng, config, n = draft.rng, self.config, len(draft.people)
        surface = points[:, _NUM_JOINTS + len(dense_vertex_indices()) :]
        settled = np.stack(
            [
                floor_contact.settle(vertices, self.mesh.parts, p.contacts, p.pitch, p.max_tilt)
                for vertices, p in zip(surface, draft.postures)
            ]
        )
        resting = np.einsum("nij,nkj->nki", Rotation.from_rotvec(settled).as_matrix(), points)
        lift = -resting[:, -surface.shape[1] :, 2].min(1)
        centres, radii = layout.limb_spheres(resting[:, :_NUM_JOINTS])
        centres[..., 2] += lift[:, None]
        places = layout.arrange(rng, draft.people.kind, centres, radii, config.layout)
        yaw = np.stack([np.zeros(n), np.zeros(n), places.yaw], axis=1)
        root_world = Rotation.from_rotvec(yaw) * Rotation.from_rotvec(settled)
        at_world = np.concatenate([places.position, lift[:, None]], axis=1)
        world = np.einsum("nij,nkj->nki", root_world.as_matrix(), points) + at_world[:, None]
        skin = world[:, -surface.shape[1] :]
        camera = world_cameras.draw_camera(rng, skin, config.camera)
        boxes = self._stools(rng, draft, skin, places.yaw, sizes[:, 0]) + self._occluders(rng, skin, camera)
        root_camera = (Rotation.from_rotvec(camera.rotvec) * root_world).as_rotvec()
        truth = rounded(BodyParameters(root_camera, camera.place(at_world), body.pose, body.shape))
        placed = (
            np.einsum("nij,nkj->nki", Rotation.from_rotvec(truth.root_rotvec).as_matrix(), points)
            + truth.transl[:, None]
        )
        joints, dense, surface = np.split(placed, [_NUM_JOINTS, _NUM_JOINTS + len(dense_vertex_indices())], axis=1)
        start = world_cues.start_bodies(
            self._rng(index, _START), truth, self._sampler.estimate_error, self._sampler.extremities, config.start
        )
        return _Placed(
            people=draft.people,
            postures=draft.postures,
            camera=camera,
            truth=truth,
            start=rounded(start),
            joints=joints,
            dense=dense,
            surface=surface,
            boxes=camera.place(np.stack(boxes)) if boxes else np.zeros((0, 8, 3)),
            sizes=sizes,
            start_joints=np.zeros((n, _NUM_JOINTS, 3)),
            farthest=float(world[..., 1].max()),
        )

    def _stools(self, rng, draft: _Draft, skin: np.ndarray, yaw: np.ndarray, height: np.ndarray) -> list[np.ndarray]:
        """Something as high as the seat under everybody who sits."""
        seat, out = self.mesh.parts["seat"], []
        for person, posture in enumerate(draft.postures):
            if posture.seated:
                points = skin[person, seat]
                top = points[:, 2].min()
                lowest = points[points[:, 2] < top + 0.04 * height[person]]
                side = height[person] * rng.uniform(0.20, 0.26, 2)
                if top > 0.05:
                    out.append(layout.box(lowest[:, :2].mean(0), np.array([*side, top]), yaw[person]))
        return out

    def _occluders(self, rng: np.random.Generator, skin: np.ndarray, camera: Camera) -> list[np.ndarray]:
        """Sometimes a box between the camera and the group."""
        if rng.random() >= self.config.layout.occluders:
            return []
        near = skin[..., 1].min() - 0.3
        size = np.array([rng.uniform(0.3, 1.0), rng.uniform(0.2, 0.4), rng.uniform(0.25, 1.0)])
        y = near - 0.5 * size[1] - rng.uniform(0.0, 0.5)
        x = rng.uniform(skin[..., 0].min(), skin[..., 0].max())
        corners = layout.box(np.array([x, y]), size, rng.normal(0.0, 0.15))
        # A box keeps some distance from the camera.
        return [corners] if camera.place(corners)[:, 2].min() > self.config.camera.nearest else []

    # -------------------------------------------------------------------------------------------- observation

    def _scene(self, index: int, placed: _Placed) -> RenderedScene:
        config, camera, looks_rng, rng = self.config, placed.camera, self._rng(index, _LOOKS), self._rng(index, _CUES)
        people, n, k = placed.people, len(placed.people), camera.intrinsics
        view = render.view(camera, placed.surface, self.mesh.faces, placed.boxes)
        looks = draw_looks(looks_rng, people.years, people.gender == FEMALE)
        scenery = draw_scenery(looks_rng, placed.farthest)
        normals = render.vertex_normals(placed.surface, self.mesh.faces)
        image, depth = render.paint(
            looks_rng, camera, view, placed.surface, normals, placed.boxes, self.mesh, looks, scenery, config.look
        )
        masks = view.owner == np.arange(n)[:, None, None]
        joints_px, dense_px = project(placed.joints, k), project(placed.dense, k)
        joint_level = world_cues.visibility(
            view, placed.joints, joints_px, world_cues.joint_depths(placed.joints), k[0, 0]
        )
        dense_level = world_cues.visibility(
            view, placed.dense, dense_px, world_cues.dense_depths(placed.dense), k[0, 0]
        )
        size = np.ptp(dense_px, axis=1).max(-1)
        sigma = world_cues.person_sigma(rng, size, config.keypoints)
        keypoints = world_cues.detect_joints(rng, joints_px, joint_level, sigma, size, config.keypoints)
        dense = world_cues.detect_dense(rng, dense_px, dense_level, sigma, size, config.keypoints)
        depth_map = world_cues.depth_map(rng, depth, masks, config.depth)
        age = age_class(people.years)
        age_word, gender_word = world_cues.words(rng, age, people.years, people.gender, config.words)
        width, height = camera.image_size
        median = world_cues.median_depth(depth_map, masks, round(config.depth.erode * max(width, height)))
        weight = np.where(joint_level >= world_cues.SELF_HIDDEN, 1.0, _HIDDEN_WEIGHT)
        fitted = fit_translation(placed.start_joints, joints_px, k, weight)
        start = world_cues.start_translation(self._rng(index, _START_PLACE), fitted, config.start)
        pixels = masks.sum((1, 2))
        kept = pixels >= config.camera.min_pixels * width * height / _REFERENCE_PIXELS
        kept[pixels.argmax()] = True  # a scene has somebody
        rows = np.flatnonzero(kept)
        ids = [str(person) for person in range(n)]
        focal = 0.5 * (k[0, 0] + k[1, 1])
        scene = RenderedScene(
            name=self.name(index),
            image_size=camera.image_size,
            intrinsics=k,
            keypoints=single(keypoints[rows]),
            dense_keypoints=single(dense[rows]),
            median_depth=single(median[rows]),
            depth_layer=np.full(len(rows), -1, np.int64),
            age=age_word[rows],
            gender=gender_word[rows],
            start=dataclasses.replace(placed.start, transl=single(start)).select(rows),
            truth=placed.truth.select(rows),
            person_ids=[ids[row] for row in rows],
            boxes=world_cues.mask_boxes(masks[rows]),
            masks=masks[rows],
            depth_map=depth_map,
            skipped=[(ids[row], "hidden") for row in np.flatnonzero(~kept)],
            extra={
                "gt_coco3d": single(placed.joints[rows]),
                "gt_coco2d": single(joints_px[rows]),
                "gt_visible": (joint_level >= world_cues.SELF_HIDDEN)[rows],
                "gt_head_px": single(focal * placed.sizes[:, 2] / placed.joints[:, _EARS, 2].mean(1))[rows],
                "gt_body_height": single(placed.sizes[rows, 0]),
                "gt_age_cat": age[rows].astype(np.int64),
                "gt_gender_cat": people.gender[rows].astype(np.int64),
                "gt_age_years": single(people.years[rows]),
                "gt_mass_kg": single(placed.sizes[rows, 1]),
                "gt_joint_visibility": joint_level[rows].astype(np.int8),
                "gt_visible_share": single(_visible_share(placed, normals, view))[rows],
                "gt_posture": np.array([placed.postures[row].name for row in rows]),
                "gt_group": np.array([people.kind]),
                "gt_ground": camera.ground,
            },
            image=image,
            jpeg_quality=int(looks_rng.integers(config.look.jpeg_quality[0], config.look.jpeg_quality[1] + 1)),
            true_depth=depth,
        )
        whole = self.config.pose.whole_body
        return self._whole().observe(scene, self._rng(index, _PART_CUES)) if whole else scene


def _visible_share(placed: _Placed, normals: np.ndarray, view: render.View) -> Float[np.ndarray, "n"]:
    """Of the vertices that face the camera, the share that is seen."""
    towards = (normals * placed.surface).sum(-1) < 0
    k, surface = placed.camera.intrinsics, placed.surface
    level = world_cues.visibility(view, surface, project(surface, k), world_cues.dense_depths(surface), k[0, 0])
    return ((level == world_cues.VISIBLE) & towards).sum(1) / np.maximum(towards.sum(1), 1)


def jpeg(scene: Scene) -> bytes:
    """The picture of a rendered scene as JPEG bytes; empty for other scenes. For `cue_dataset.write(photo=...)`."""
    image = getattr(scene, "image", None)
    return b"" if image is None else encoded(image, quality=getattr(scene, "jpeg_quality", PICTURE_QUALITY))


def _select(people: People, index: np.ndarray) -> People:
    arrays = {f.name: getattr(people, f.name)[index] for f in dataclasses.fields(People) if f.name != "kind"}
    return dataclasses.replace(people, **arrays)


def _joined(groups: list[People]) -> People:
    names = [f.name for f in dataclasses.fields(People) if f.name != "kind"]
    return People("", **{name: np.concatenate([getattr(group, name) for group in groups]) for name in names})
