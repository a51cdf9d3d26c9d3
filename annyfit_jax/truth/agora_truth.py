"""AGORA's ground truth: pickled data frames with joints and vertices, one row per image.

| column | of each image |
|---|---|
| `imgPath` | file name of the picture |
| `gt_joints_2d` | per person (K, 2) pixels of the 3840 x 2160 picture; K >= 24 |
| `gt_joints_3d` | per person (K, 3) metres, camera axes |
| `gt_verts` | per person (10475, 3) SMPL-X or (6890, 3) SMPL; optional here, without it there are no vertex figures |
| `isValid`, `occlusion`, `kid` | per person; occlusion in percent, people of 0 to 90 are to be found; `kid` optional |

The validation set comes with joints and vertices ("with SMPLX joints and vertices" on AGORA's page); for other sets its
`project_joints` program adds the columns. Pandas is not needed. Data frames are large: one file is held at a time.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import SMPL24
from annyfit_jax.metrics.vertex_errors import TOPOLOGIES
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_dataframe
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource

IMAGE_SIZE = (3840, 2160)
NUM_MATCHED = 24
"""Leading joints that people are matched by."""
MAX_OCCLUSION = 90.0
SMPLX_NAMES = (*SMPL24[:22], "jaw", "left_eye_ball")
"""The first 24 of the 127 SMPL-X joints."""


def open_source(path: Path, options: TruthOptions) -> TruthSource:
    """The images of a data frame, or of all `*.pkl` in a folder."""
    del options
    files = sorted(path.glob("*.pkl")) if path.is_dir() else [path]
    if not files:
        raise SceneError(f"{path}: no data frames (*.pkl)")
    frames = functools.lru_cache(maxsize=1)(read_dataframe)
    images = []
    for file in files:
        columns = frames(file)
        for name in ("imgPath", "gt_joints_2d", "gt_joints_3d", "isValid"):
            if name not in columns:
                raise SceneError(
                    f"{file}: column {name}: missing; the file has {', '.join(sorted(columns)[:30])}. Take the data frame "
                    "with SMPL-X joints and vertices, or add them with AGORA's project_joints"
                )
        images += [(file, row, str(image)) for row, image in enumerate(columns["imgPath"])]
    return TruthSource(
        tuple(Path(image).stem for _, _, image in images),
        lambda index: people_of(frames(images[index][0]), images[index][1], str(images[index][0])),
        str(path),
    )


def people_of(columns: dict[str, list], row: int, where: str) -> TruthPeople:
    """The people of one row. Raises SceneError naming file, row, column and shape."""
    image = str(columns["imgPath"][row])
    where = f"{where}: row {row} ({image})"

    def people(name: str) -> list:
        value = columns[name][row]
        if not isinstance(value, list | tuple | np.ndarray):
            raise SceneError(f"{where}: {name}: expected one entry per person, got {type(value).__name__}")
        return list(value)

    def stacked(name: str, shape: tuple) -> np.ndarray:
        arrays = [checked_array(x, f"{where}: {name}[{i}]", shape, np.float32) for i, x in enumerate(people(name))]
        if len(arrays) != n or len({len(x) for x in arrays}) > 1:
            raise SceneError(f"{where}: {name}: expected {n} arrays of one shape, got {[x.shape for x in arrays]}")
        return np.stack(arrays) if arrays else np.zeros((0, NUM_MATCHED, shape[-1]), np.float32)

    def flags(name: str) -> np.ndarray:
        return checked_array(people(name), f"{where}: {name}", (n,)).astype(bool)

    n = len(people("isValid"))
    pixels, joints = stacked("gt_joints_2d", ("k", 2)), stacked("gt_joints_3d", ("k", 3))
    if pixels.shape[1] < NUM_MATCHED or joints.shape[1] < NUM_MATCHED:
        raise SceneError(
            f"{where}: gt_joints_2d: expected at least {NUM_MATCHED} joints, got {pixels.shape}, {joints.shape}"
        )
    vertices = stacked("gt_verts", ("v", 3)) if "gt_verts" in columns else None
    smplx = joints.shape[1] > 45 if vertices is None or not n else TOPOLOGIES.get(vertices.shape[1]) != "smpl"
    valid = flags("isValid")
    occlusion = (
        checked_array(people("occlusion"), f"{where}: occlusion", (n,)) if "occlusion" in columns else np.zeros(n)
    )
    return TruthPeople(
        name=Path(image).stem,
        names=SMPLX_NAMES if smplx else SMPL24,
        joints_2d=pixels[:, :NUM_MATCHED],
        labelled=np.ones((n, NUM_MATCHED), bool),
        joints_3d=joints[:, :NUM_MATCHED],
        joints_smplx=joints,
        vertices=vertices,
        valid=valid,
        counted=valid & (occlusion >= 0) & (occlusion <= MAX_OCCLUSION),
        kid=flags("kid") if "kid" in columns else np.zeros(n, bool),
        image_size=IMAGE_SIZE,
    )
