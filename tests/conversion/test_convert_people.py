"""Anny's people as SMPL-X's and back, on a made SMPL-X body whose surface is Anny's (`made_smplx`)."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion.convert_people import Converter, Cues
from annyfit_jax.conversion.convertible import posed
from annyfit_jax.exports import scene_files, smplx_export
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.synthetic.plain_people import PoseSampler

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]
N = 6


@pytest.fixture(scope="module")
def people(load_anny) -> BodyParameters:
    """A toddler, a child, and adults in everyday poses, some metres away."""
    rng = np.random.default_rng(4)
    age = np.array([0.15, 0.35, 0.6, 0.66, 0.7, 0.95])
    pose = PoseSampler(load_anny()).draw(rng, np.zeros(N, bool))
    root = Rotation.from_rotvec(rng.normal(0, 0.5, (N, 3))) * Rotation.from_rotvec([np.pi / 2, 0, 0])
    shape = calibrated_phenotypes(age, np.array([0, 1, 0, 1, 0, 1.0]))
    return BodyParameters(root.as_rotvec(), rng.normal(0, 1, (N, 3)) + np.array([0, 0, 5]), pose, shape)


@pytest.fixture(scope="module")
def forth(anny_body, smplx_body) -> Converter:
    return Converter(anny_body, smplx_body)


@pytest.fixture(scope="module")
def back(smplx_body, anny_body) -> Converter:
    return Converter(smplx_body, anny_body)


@pytest.fixture(scope="module")
def converted(forth, people):
    return forth.convert(people)


def test_nearly_every_point_has_a_place_on_the_other_body(forth):
    assert (forth._pairing.weight > 0).mean() > 0.95
    assert np.median(forth._pairing.places.distance) < 0.001


def test_the_surface_is_that_of_the_source(converted):
    """Measured: 1.4 to 1.9 mm for adults, 2.8 mm for the toddler, whose shape the adults' components do not have."""
    adults = slice(2, None)
    assert converted.surface_m[adults].max() < 0.003
    assert converted.surface_p95_m[adults].max() < 0.008
    assert converted.surface_m.max() < 0.006
    assert converted.turn_rad[adults].max() < np.radians(10)


def test_left_is_left_and_points_stay(converted, people, anny_body):
    """COCO's body keypoints, which both models define by rules of their own, agree to centimetres."""
    own = posed(anny_body, people).keypoints
    off = np.linalg.norm(converted.keypoints - own, axis=-1)[:, 5:]
    assert off.max() < 0.06


def test_another_frame_gives_the_same_bodies(forth, converted, people):
    """The conversion is made in frames of the people themselves, so that it does not matter where a camera stands."""
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_rotvec([0.4, -2.0, 0.7]).as_matrix()
    transform[:3, 3] = [1.0, -0.5, 3.0]
    again = forth.convert(smplx_export.moved(people, transform))
    assert max_abs(again.keypoints, scene_files.move(converted.keypoints, transform)) < 1e-3
    assert max_abs(again.people.shape, converted.people.shape) < 0.05


def test_keypoints_have_a_say(forth, back, converted, people):
    """Keypoints of the converted bodies, moved by some pixels, draw the bodies along; one that is far off is doubted."""
    K = np.tile([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], (N, 1, 1))
    pixels = project(converted.keypoints, K[0])
    moved = pixels + np.array([4.0, -3.0])
    wanted = moved.copy()
    wanted[:, 9] += 150.0
    cues = Cues(np.concatenate([wanted, np.ones((N, 17, 1))], -1), K)
    again = forth.convert(people, cues)
    off = np.delete(np.linalg.norm(project(again.keypoints, K[0]) - moved, axis=-1), 9, axis=1)
    assert off.mean(1).max() < 2.5  # it was 5
    assert again.surface_m.max() < 0.03
    with pytest.raises(ValueError, match="cues are for bodies of SMPL-X"):
        back.convert(converted.people, cues)


def test_there_and_back_is_the_same_person(back, anny_body, converted, people):
    returned = back.convert(converted.people)
    there, here = (posed(anny_body, p).vertices for p in (people, returned.people))
    off = np.linalg.norm(there - here, axis=-1).mean(1)
    assert off.max() < 0.01
    assert np.abs(returned.people.shape[:5, 1] - people.shape[:5, 1]).max() < 0.1


def test_nobody_is_nobody(forth, people):
    none = forth.convert(people.select(np.zeros(0, int)))
    assert len(none.people) == 0 and none.people.pose.shape == (0, 54, 3)


def test_a_body_is_not_converted_to_itself(anny_body):
    with pytest.raises(ValueError, match="from anny to smplx or back, got anny to anny"):
        Converter(anny_body, anny_body)
