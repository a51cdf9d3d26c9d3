"""Fits in a viewer served from this machine: what is shown of a scene, and what is left when another is chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from export_cases import make_job
from helpers import HANG_S, REPO

from annyfit_jax.jobs.fit_source import FitSource, open_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.report import fit_viewer


class Handle:
    """A thing on the screen; counts itself out when it is removed."""

    def __init__(self, screen: dict, name: str, **values: Any) -> None:
        self.screen, self.name, self.visible = screen, name, True
        self.__dict__.update(values)
        self.actions = []
        screen[name] = self

    def on_click(self, action):
        self.actions.append(action)

    on_update = on_click

    def remove(self) -> None:
        del self.screen[self.name]


class Screen:
    """Stands for a viser server: keeps what is added by name."""

    def __init__(self) -> None:
        self.things: dict[str, Handle] = {}
        self.controls: dict[str, Handle] = {}
        self.scene = self.gui = self

    def on_client_connect(self, action) -> None:
        self.greeting = action

    def get_clients(self) -> dict[int, Any]:
        return {0: self.browser}

    browser = SimpleNamespace(camera=SimpleNamespace())

    def set_up_direction(self, direction: str) -> None:
        self.up = direction

    def add_mesh_simple(self, name, vertices, faces, **values):
        assert vertices.shape[0] > faces.max()
        return Handle(self.things, name, vertices=vertices, **values)

    def add_camera_frustum(self, name, **values):
        return Handle(self.things, name, **values)

    add_grid = add_camera_frustum

    def add_slider(self, name, *, initial_value, **values):
        return Handle(self.controls, name, value=initial_value, **values)

    add_text = add_slider
    add_checkbox = add_slider

    def add_button(self, name):
        return Handle(self.controls, name)

    def add_markdown(self, content):
        return Handle(self.controls, "text", content=content)


@pytest.fixture(scope="module")
def fits(tmp_path_factory) -> FitSource:
    return open_fits(make_job(tmp_path_factory.mktemp("job") / "job"))


def test_bodies_are_those_of_the_fit_with_y_up(fits, load_anny):
    meshes = BodyMeshes(load_anny())
    fit = fits.load("mixed")
    bodies = fit_viewer.bodies_of(fit, meshes)
    assert [body.name for body in bodies] == ["fit/person_1-0", "fit/person_1-2"]
    expected = meshes.vertices(fit.parameters.select(np.array([0, 2])))
    for body, vertices in zip(bodies, expected):
        np.testing.assert_allclose(body.vertices * [1, -1, -1], vertices, atol=1e-6)
    assert len({body.colour for body in bodies}) == 2
    table = fit_viewer.table_of(fit)
    assert "skipped:no_keypoints" in table
    assert f"{fit.height_m[0]:.2f} m" in table


def test_a_scene_replaces_the_one_before(fits):
    screen = Screen()
    viewer = fit_viewer.Viewer(screen, fits)
    viewer.show(fits.names.index("trio"))
    people = [name for name in screen.things if name.startswith("/fit/")]
    assert len(people) == 3
    assert {"/camera", "/floor"} <= set(screen.things)
    floor = screen.things["/floor"].__dict__["position"][1]
    lowest = min(screen.things[name].__dict__["vertices"][:, 1].min() for name in people)
    assert floor == pytest.approx(lowest, abs=1e-5)
    screen.controls["previous"].actions[0](None)
    assert viewer.names[viewer._current] == "mixed"
    assert len([name for name in screen.things if name.startswith("/fit/")]) == 2
    assert "mixed" in screen.controls["text"].__dict__["content"]
    switch = next(control for name, control in screen.controls.items() if name.startswith("fit/"))
    switch.__dict__["value"] = False
    switch.actions[0](None)
    assert not screen.things[f"/{switch.name}"].visible
    viewer.show(99)
    assert viewer._current == len(fits.names) - 1


def test_the_view_opens_at_the_camera_of_the_photo(fits):
    screen = Screen()
    viewer = fit_viewer.Viewer(screen, fits)
    viewer.show(fits.names.index("trio"))
    fit = fits.load("trio")
    newcomer = SimpleNamespace(camera=SimpleNamespace())
    screen.greeting(newcomer)
    for camera in (screen.browser.camera, newcomer.camera):
        assert camera.position == (0.0, 0.0, 0.0)
        assert camera.look_at[:2] == (0.0, 0.0) and camera.look_at[2] < 0
        assert camera.up_direction == (0.0, 1.0, 0.0)
        assert np.tan(camera.fov / 2) == pytest.approx(fit.image_size[1] / 2 / fit.K[1, 1])


@pytest.mark.process
def test_program_says_what_is_missing(tmp_path):
    (tmp_path / "viser.py").write_text("raise ImportError('not here')\n")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.view", "--fits=nowhere"], cwd=REPO, capture_output=True, text=True, timeout=HANG_S,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0
    assert "pip install viser" in done.stdout + done.stderr
