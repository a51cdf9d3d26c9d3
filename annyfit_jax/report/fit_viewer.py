"""Fits in 3D in a browser, by a viser server of this machine: scene after scene, the photo at the camera."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from annyfit_jax.exports.scene_files import Y_UP, node_names
from annyfit_jax.jobs.fit_source import FitSource
from annyfit_jax.metrics.word_scores import age_group
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fit_meshes import FitMeshes, SmplxMeshes
from annyfit_jax.people.fitted import drawable
from annyfit_jax.people.lens import straightened
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.report.scene_pages import load_photo
from annyfit_jax.viz import palette

_START_COLOUR = (150, 155, 160)
_FRUSTUM_M = 0.5


class Body(NamedTuple):
    """One mesh to show, in the viewer's axes: x right, y up, z towards the viewer, metres."""

    name: str
    vertices: np.ndarray
    """(V, 3)."""
    colour: tuple[int, int, int]


def bodies_of(fit: SceneFit, meshes: BodyMeshes | SmplxMeshes, *, start: bool = False) -> list[Body]:
    """The fitted bodies of a scene, and with `start` those they started from where they are known."""
    rows = drawable(fit)
    names, colours = node_names(fit, rows), palette(len(fit))[rows]
    bodies = []
    if len(rows):
        vertices = meshes.vertices(fit.parameters.select(rows)).astype(np.float64) @ Y_UP.T
        bodies = [Body(f"fit/{n}", v, (int(c[0]), int(c[1]), int(c[2]))) for n, v, c in zip(names, vertices, colours)]
        if start and np.isfinite(fit.start.transl[rows]).all():
            begun = meshes.vertices(fit.start.select(rows)).astype(np.float64) @ Y_UP.T
            bodies += [Body(f"start/{n}", v, _START_COLOUR) for n, v in zip(names, begun)]
    return bodies


def table_of(fit: SceneFit) -> str:
    """People of a scene as a Markdown table."""
    lines = ["| person | age | height | depth | px | trust |", "| --- | --- | --- | --- | --- | --- |"]
    for i in range(len(fit)):
        if fit.status[i] == "ok":
            trust = f"{fit.trust[i]:.2f}" if np.isfinite(fit.trust[i]) else ""
            age = float(fit.phenotypes[i, 1])
            size = f"{age_group(age) if np.isfinite(age) else ''} | {fit.height_m[i]:.2f} m | {fit.depth_m[i]:.2f} m"
            cells = f"{size} | {fit.reprojection_px[i]:.1f} | {trust}"
        else:
            cells = f"{fit.status[i]} | | | |"
        lines.append(f"| {fit.person_ids[i]} | {cells} |")
    return "\n".join(lines)


class Viewer:
    """A viser server that shows one scene at a time."""

    def __init__(
        self, server: Any, fits: FitSource, first: int = 0, *, with_start: bool = False, bodies: FitMeshes | None = None
    ) -> None:
        self.server, self.fits, self.names, self.with_start = server, fits, fits.names, with_start
        self.bodies = bodies or FitMeshes()
        self._lock = threading.Lock()
        self._current = -1
        self._shown: list[Any] = []
        self._switches: list[Any] = []
        server.scene.set_up_direction("+y")
        gui = server.gui
        self._number = gui.add_slider("scene", min=0, max=max(len(self.names) - 1, 1), step=1, initial_value=first)
        self._name = gui.add_text("name", initial_value="")
        for label, move in (("previous", -1), ("next", 1)):
            gui.add_button(label).on_click(lambda _, move=move: self._step(move))
        self._text = gui.add_markdown("")
        server.on_client_connect(self._greet)
        self._number.on_update(lambda _: self.show(int(self._number.value)))
        self._name.on_update(lambda _: self._find(self._name.value))

    def show(self, index: int) -> None:
        """Replaces what is shown by a scene of the fits."""
        index = min(max(index, 0), len(self.names) - 1)
        with self._lock:
            if index == self._current:
                return
            self._current = index
            for handle in (*self._shown, *self._switches):
                handle.remove()
            self._shown, self._switches = [], []
            fit = self.fits.load(self.names[index])
            meshes = self.bodies.of(fit, self.fits.where(fit.name))
            bodies = bodies_of(fit, meshes, start=self.with_start)
            for body in bodies:
                handle = self.server.scene.add_mesh_simple(
                    f"/{body.name}", body.vertices.astype(np.float32), meshes.faces, color=body.colour
                )
                switch = self.server.gui.add_checkbox(body.name, initial_value=True)
                switch.on_update(lambda _, handle=handle, switch=switch: setattr(handle, "visible", switch.value))
                self._shown.append(handle)
                self._switches.append(switch)
            self._camera(fit, bodies)
            for client in self.server.get_clients().values():
                self._to_photo(client, fit)
            self._text.content = f"**{fit.name}**\n\n{table_of(fit)}"
        if self._number.value != index:
            self._number.value = index

    def _greet(self, client: Any) -> None:
        """Somebody opens the page: the view starts where the photo was taken from."""
        if self._current >= 0:
            self._to_photo(client, self.fits.load(self.names[self._current]))

    def _to_photo(self, client: Any, fit: SceneFit) -> None:
        """Puts a browser's view into the camera of the photo, which looks along -z of the viewer's axes."""
        height = float(fit.image_size[1])
        client.camera.position = (0.0, 0.0, 0.0)
        client.camera.look_at = (0.0, 0.0, -float(np.nanmedian([*fit.depth_m[fit.ok], 3.0])))
        client.camera.up_direction = (0.0, 1.0, 0.0)
        client.camera.fov = float(2 * np.arctan(height / (2 * float(fit.K[1, 1]))))

    def _camera(self, fit: SceneFit, bodies: list[Body]) -> None:
        width, height = (float(side) for side in fit.image_size)
        floor = min((float(body.vertices[:, 1].min()) for body in bodies), default=-1.5)
        add = self.server.scene
        photo = load_photo(fit.image_path)[0]
        self._shown.append(
            add.add_camera_frustum(
                "/camera", fov=2 * np.arctan(height / (2 * float(fit.K[1, 1]))), aspect=width / height, scale=_FRUSTUM_M,
                image=None if photo is None else straightened(photo, fit.lens, fit.K), wxyz=(0.0, 1.0, 0.0, 0.0),
                position=(0.0, 0.0, 0.0),
            )  # half a turn about x: the camera looks along -z of the viewer
        )  # fmt: skip
        self._shown.append(add.add_grid("/floor", width=20.0, height=20.0, plane="xz", position=(0.0, floor, -6.0)))

    def _step(self, move: int) -> None:
        self.show(int(self._number.value) + move)

    def _find(self, text: str) -> None:
        """Goes to the first scene whose name holds the text."""
        index = next((i for i, name in enumerate(self.names) if text and text in name), None)
        if index is not None:
            self.show(index)
