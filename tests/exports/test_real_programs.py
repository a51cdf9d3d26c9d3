"""Files with bones in the programs that they are for: Blender, the Khronos validator, three.js in a browser.

Each check is skipped where its program is not there. Blender: `apt-get install blender python3-numpy`; three.js: `chromium`.
The packages of npm are fetched into `.cache/npm`, which takes seconds, and are skipped where that fails.
"""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fitted_people import make_fit
from helpers import HANG_S, REPO
from PIL import Image
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import rigs, scene_files
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.skinned_export import Skinned
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fitted import SceneFit, drawable
from annyfit_jax.records import fit_files

pytestmark = pytest.mark.process

IN_BLENDER = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Camera axes to Blender's."""
IN_GLTF = np.diag([1.0, -1.0, -1.0])
BONE = "lowerarm01.L"
NPM = REPO / ".cache" / "npm"
NAMES = ("person_7", "person_left one")


@pytest.fixture(scope="module")
def meshes(load_anny) -> BodyMeshes:
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def fit(meshes) -> SceneFit:
    """Two people, an upright one and a child in a bent pose, in front of a photo."""
    return make_fit(asset_version=meshes.model.labels.asset_version, image_path="photo.jpg")


@pytest.fixture(scope="module")
def vertices(fit, meshes) -> np.ndarray:
    return meshes.vertices(fit.parameters.select(np.arange(2)))


@pytest.fixture(scope="module")
def write(fit, tmp_path_factory) -> Callable[[str, str], Path]:
    """`write(format, program)`: a folder with the exported files."""
    folder = tmp_path_factory.mktemp("fits")
    fit_files.save(fit, folder / "in" / "photo.npz")
    shades = np.add.outer(np.arange(480), np.arange(640)) % 256
    Image.fromarray(shades.astype(np.uint8)).save(folder / "photo.jpg")

    def export(file_format: str, program: str) -> Path:
        output = folder / f"{file_format}_{program}"
        skinned = Skinned(photos=str(folder)) if file_format == "glb" else None
        export_fits(str(folder / "in"), str(output), file_format, program=program, skinned=skinned)
        return output

    return export


def run(*command: str, folder: Path = REPO) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


# ------------------------------------------------------------------------------------------------ Blender


@pytest.fixture(scope="module")
def blender(write, tmp_path_factory) -> dict[str, np.ndarray]:
    """What Blender shows of both files: `support/blender_import.py`."""
    program = shutil.which("blender")
    if program is None:
        pytest.skip("Blender is not installed: apt-get install blender python3-numpy")
    folder = tmp_path_factory.mktemp("blender")
    task = {
        "glb": str(write("glb", "blender") / "photo.glb"),
        "bvh": str(write("bvh", "blender") / "photo_person_left one.bvh"),
        "bone": BONE,
        "output": str(folder / "found.npz"),
    }
    (folder / "task.json").write_text(json.dumps(task))
    script = REPO / "tests" / "support" / "blender_import.py"
    options = ("--background", "--factory-startup", "--python-exit-code", "1", "--python", str(script), "--")
    run(program, *options, str(folder / "task.json"))
    with np.load(folder / "found.npz") as arrays:
        return dict(arrays)


def test_blender_shows_the_fitted_pose(blender, vertices):
    """Measured: 0.002 mm."""
    for name, points in zip(NAMES, vertices):
        assert np.abs(blender[f"mesh_{name}"] - points @ IN_BLENDER.T).max() < 1e-3


def test_a_bone_turned_in_blender_moves_its_vertices(blender, fit, meshes):
    """By 30 degrees about the vertical: the forearm follows as our own skinning has it, everything else stays."""
    rig = rigs.anny_rig(meshes.model, 12)
    bone = rig.bones.index(BONE)
    below = [bone]
    for child, parent in enumerate(rig.parents):
        below += [child] if parent in below else []
    share = np.where(np.isin(rig.joints, below), rig.weights, 0.0).sum(1)
    turn = IN_BLENDER.T @ Rotation.from_rotvec([0, 0, np.pi / 6]).as_matrix() @ IN_BLENDER
    for name, person in zip(NAMES, rigs.rigged_anny(meshes.model, fit.parameters.select(np.arange(2)))):
        world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
        head = world[bone, :, 3].copy()
        world[below, :, :3] = turn @ world[below, :, :3]
        world[below, :, 3] = (world[below, :, 3] - head) @ turn.T + head
        expected = rigs.skinned(rig, person, world) @ IN_BLENDER.T
        before, after = blender[f"mesh_{name}"], blender[f"turned_{name}"]
        assert np.abs(after - expected).max() < 1e-3
        assert np.abs(after - before)[share == 0].max() < 1e-4
        assert np.linalg.norm(after - before, axis=1)[share > 0.99].max() > 0.02


def test_the_bones_of_a_bvh_stand_in_blender_where_ours_do(blender, fit, meshes):
    """Heads at rest and in the pose; the file has six decimals of metres and degrees."""
    rig = rigs.anny_rig(meshes.model, 12)
    (person,) = rigs.rigged_anny(meshes.model, fit.parameters.select(np.array([1])))
    world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
    index = [rig.bones.index(str(name)) for name in blender["bones"]]
    assert sorted(index) == list(range(163))
    assert np.abs(blender["heads"] - world[index, :, 3] @ IN_BLENDER.T).max() < 1e-3
    rest = person.bind[:, :, 3] - person.bind[0, :, 3]
    y_up_to_blender = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert np.abs(blender["rest_heads"] - rest[index] @ y_up_to_blender.T).max() < 1e-3
    leaves = np.array([bone not in rig.parents for bone in index])
    moved = world[:, :, :3] @ np.swapaxes(person.bind[:, :, :3], 1, 2) @ (person.tips - person.bind[:, :, 3])[..., None]
    tips = (world[:, :, 3] + moved[..., 0]) @ IN_BLENDER.T
    assert np.abs(blender["tails"] - tips[index])[leaves].max() < 1e-3


def test_the_photo_fills_the_view_of_blenders_camera(blender, fit):
    """The principal point of this photo is its centre, so that the corners lie at the edges of the view."""
    inverse = np.linalg.inv(blender["camera"])
    corners = blender["photo"] @ inverse[:3, :3].T + inverse[:3, 3]
    assert (corners[:, 2] < 0).all()
    tangents = np.abs(corners[:, :2] / corners[:, 2:])
    width, height = fit.image_size / 2
    assert np.allclose(tangents, [width / fit.K[0, 0], height / fit.K[1, 1]], atol=1e-4)
    assert np.tan(blender["camera_angle"][1] / 2) == pytest.approx(height / fit.K[1, 1], abs=1e-4)


# ------------------------------------------------------------------------------------------------ npm


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder of npm's packages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    if not (NPM / "node_modules" / "three").is_dir():
        NPM.mkdir(parents=True, exist_ok=True)
        wanted = ("gltf-validator@2.0.0-dev.3.10", "three@0.187.0")
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(NPM), *wanted]
        if subprocess.run(command, cwd=NPM, capture_output=True, timeout=HANG_S).returncode:
            pytest.skip("npm cannot fetch gltf-validator and three")
    return NPM / "node_modules"


_VALIDATE = """
const fs = require("fs"), validator = require("gltf-validator");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1]))).then(r => console.log(JSON.stringify(r.issues)));
"""


@pytest.mark.parametrize("program", ["blender", "unity", "unreal"])
def test_the_validator_finds_no_error_and_no_warning(packages, write, program):
    path = write("glb", program) / "photo.glb"
    issues = json.loads(run("node", "-e", _VALIDATE, str(path), folder=packages.parent))
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]
    assert {message["code"] for message in issues["messages"]} <= {"IMAGE_NPOT_DIMENSIONS"}


_PAGE = """<!doctype html>
<script type="importmap">{"imports": {"three": "./node_modules/three/build/three.module.js"}}</script>
<script type="module">
import * as THREE from "three";
import { GLTFLoader } from "./node_modules/three/examples/jsm/loaders/GLTFLoader.js";
const found = {};
const tell = what => fetch("./found", { method: "POST", body: JSON.stringify(what) });
new GLTFLoader().load("./photo.glb", gltf => {
  gltf.scene.updateMatrixWorld(true);
  gltf.scene.traverse(thing => {
    if (!thing.isSkinnedMesh) return;
    const points = [], point = new THREE.Vector3();
    for (let i = 0; i < thing.geometry.attributes.position.count; i += 37) {
      thing.getVertexPosition(i, point).applyMatrix4(thing.matrixWorld);
      points.push([point.x, point.y, point.z]);
    }
    found[thing.name] = { points, bones: thing.skeleton.bones.map(b => b.name) };
  });
  tell(found);
}, undefined, error => tell({ error: String(error) }));
</script>"""


@pytest.fixture
def served(packages, tmp_path) -> Iterator[tuple[Path, str, queue.Queue[bytes]]]:
    """A folder, the address where a browser finds it, and what the page sends."""
    told: queue.Queue[bytes] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format, *args) -> None:
            pass

    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "index.html").write_text(_PAGE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}/index.html", told
        server.shutdown()


def test_three_js_shows_the_fitted_pose(served, write, vertices, fit, meshes):
    """three.js has four influences: it is given the file for Unity, and compared with our skinning by four."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    folder, address, told = served
    shutil.copy(write("glb", "unity") / "photo.glb", folder / "photo.glb")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    command = [browser, *options, "--remote-debugging-port=0", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            found = json.loads(told.get(timeout=HANG_S))
        finally:
            process.terminate()
    rig = rigs.anny_rig(meshes.model, 4)
    people = rigs.rigged_anny(meshes.model, fit.parameters.select(np.arange(2)))
    for name, person, exact in zip(NAMES, people, vertices):
        shown = found[name.replace(" ", "_")]
        world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
        expected = rigs.skinned(rig, person, world)
        assert np.abs(np.array(shown["points"]) - (expected @ IN_GLTF)[::37]).max() < 1e-3
        assert np.abs(expected - exact).max() < 0.03
        assert any(bone.startswith("upperarm01_L") for bone in shown["bones"])  # three.js numbers names that come twice


def test_the_scene_of_these_checks_is_what_it_says(fit):
    assert drawable(fit).tolist() == [0, 1]
    assert tuple(scene_files.node_names(fit, [0, 1])) == NAMES
