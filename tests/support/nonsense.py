"""Scenes of one person that no photo gives, made from sane synthetic ones: what must not be trusted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from annyfit_jax.fit.starts import select_people
from annyfit_jax.people.scene import Scene
from annyfit_jax.synthetic import Generator, Recipe

ADULT, BABY = 0.66, 0.0


@functools.cache
def _people() -> tuple[Scene, Scene]:
    """A child and an adult, each alone and seen almost whole, with all cues and a start."""
    scenes = [
        scene
        for scene in Generator(Recipe(7, (1,), (1.0, 1.0))).scenes(range(40))
        if (scene.keypoints[..., 2] > 0).sum() >= 14
    ]
    return scenes[0], next(scene for scene in scenes if scene.age[0] == ADULT)


def scenes() -> list[Scene]:
    """Names that begin with `sane` are of people as they are; a new list at every call."""
    child, adult = (dataclasses.replace(scene) for scene in _people())
    width, height = child.image_size
    bare = dataclasses.replace(
        child, dense_keypoints=child.dense_keypoints * 0, median_depth=np.full(1, np.nan), age=np.full(1, -1.0),
        gender=np.full(1, -1.0), start=None, masks=None,
    )  # fmt: skip
    far = np.array([[1e7, 0, width / 2], [0, 1e7, height / 2], [0, 0, 1.0]])
    no_dense = adult.dense_keypoints * 0
    lone = dataclasses.replace(adult, start=None, dense_keypoints=no_dense, median_depth=np.full(1, np.nan), masks=None)

    def case(name: str, base: Scene, points: Callable[[np.ndarray], None] | None = None, **changes: object) -> Scene:
        keypoints = np.array(base.keypoints, np.float64)
        if points is not None:
            points(keypoints)
        return dataclasses.replace(base, name=name, keypoints=keypoints, **changes)  # pyright: ignore[reportArgumentType]

    def nose(keypoints: np.ndarray) -> None:
        keypoints[:, 1:, 2], keypoints[:, 0, 2] = 0.0, 1.0

    def point(keypoints: np.ndarray) -> None:
        keypoints[..., :2] = [width / 2, height / 2]

    def tiny(keypoints: np.ndarray) -> None:
        middle = keypoints[..., :2].mean(1, keepdims=True)
        keypoints[..., :2] = middle + (keypoints[..., :2] - middle) * 5 / np.ptp(keypoints[0, :, 1])

    def random(keypoints: np.ndarray, seed: int) -> None:
        keypoints[0, :, :2] = np.random.default_rng(seed).uniform(0, [width, height], (17, 2))
        keypoints[..., 2] = 1.0

    def far_away(seed: int) -> Callable[[np.ndarray], None]:
        return lambda keypoints: random(keypoints, seed)

    beside = select_people(dataclasses.replace(adult, start=None, masks=None), np.array([0, 0]))
    beside.keypoints[1, 1:, 2], beside.dense_keypoints[1, :, 2] = 0.0, 0.0
    return [
        case("sane", dataclasses.replace(child, start=None)),
        case("sane adult", dataclasses.replace(adult, start=None)),
        dataclasses.replace(beside, name="sane, beside a nose", person_ids=["body", "nose"], extra={}, truth=None),
        case("only the nose", bare, nose),
        case("only the nose, with a start", adult, nose, dense_keypoints=no_dense),
        case("all at one point", bare, point),
        case("all at one point, with a start", child, point, dense_keypoints=no_dense),
        case("five pixels tall", bare, tiny),
        case("five pixels tall, with a start", child, tiny, dense_keypoints=no_dense),
        case("focal length of 1e7", bare, intrinsics=far),
        case("focal length of 1e7, with a start", child, intrinsics=far),
        *(case(f"random keypoints {seed}", bare, far_away(seed)) for seed in range(6)),
        case("random keypoints, with a start", child, far_away(7), dense_keypoints=no_dense),
        case("baby, says the word of an adult", lone, age=np.full(1, BABY)),
        case("baby, says the word, all cues", dataclasses.replace(adult, start=None), age=np.full(1, BABY)),
        case("baby, says the word, with a start", adult, age=np.full(1, BABY)),
        case("depth of 1e308", dataclasses.replace(child, start=None), median_depth=np.full(1, 1e308)),
        case("depth of 9 km", dataclasses.replace(child, start=None), median_depth=np.full(1, 9000.0)),
    ]
