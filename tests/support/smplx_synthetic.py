"""A synthetic SMPL-X model of the official layout, and an independent float64 reference, for tests.

True sizes and the real joint tree, made-up numbers: vertices scattered about a stick figure, smooth random shape and
pose directions, skinning weights over the nearest joints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

V, J = 10475, 55
PARENTS = np.array(
    [
        -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
        20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38,
        21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53,
    ]
)  # fmt: skip


def arrays(seed: int = 0, columns: int = 20) -> dict[str, np.ndarray]:
    """The keys of an official file, `columns` shape directions (20 or 400), float64 except the large float32 ones."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((J, 3))
    for j in range(1, J):
        length = 0.03 if j >= 22 else 0.15
        joints[j] = joints[PARENTS[j]] + length * rng.uniform(-1, 1, 3)
    owner = rng.integers(0, J, V)
    template = joints[owner] + 0.05 * rng.standard_normal((V, 3))
    distance = np.linalg.norm(template[:, None] - joints[None], axis=-1)
    nearest = np.argsort(distance, axis=1)[:, :4]
    raw = rng.uniform(0.05, 1.0, (V, 4)) * (np.arange(4) < rng.integers(1, 5, (V, 1)))
    weights = np.zeros((V, J))
    np.put_along_axis(weights, nearest, raw / raw.sum(1, keepdims=True), axis=1)
    regressor = np.zeros((J, V))
    for j in range(J):
        chosen = rng.choice(V, 12, replace=False)
        share = rng.uniform(0.1, 1.0, 12)
        regressor[j, chosen] = share / share.sum()

    def smooth(count: int, size: float) -> np.ndarray:
        """(V, 3, count) fields that vary over about 0.5 m."""
        waves = np.sin(template @ rng.normal(0, 4, (3, 12)) + rng.uniform(0, 6, 12))
        return (size * waves @ rng.standard_normal((12, 3 * count)) / 12**0.5).reshape(V, 3, count).astype(np.float32)

    means = 0.3 * rng.standard_normal((2, 45))
    components = np.stack([np.linalg.qr(rng.standard_normal((45, 45)))[0] for _ in range(2)])
    return {
        "v_template": template,
        "shapedirs": smooth(columns, 0.01),
        "posedirs": smooth(486, 0.002),
        "J_regressor": regressor,
        # The root's parent is stored as an unsigned -1, as in the official files.
        "kintree_table": np.stack([PARENTS, np.arange(J)]).astype(np.uint32),
        "weights": weights,
        "f": rng.integers(0, V, (20908, 3)).astype(np.uint32),
        "hands_meanl": means[0],
        "hands_meanr": means[1],
        "hands_componentsl": components[0],
        "hands_componentsr": components[1],
        "lmk_faces_idx": rng.integers(0, 20908, 51),
        "lmk_bary_coords": np.full((51, 3), 1.0 / 3.0),
        "dynamic_lmk_faces_idx": rng.integers(0, 20908, (79, 17)),
        "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1.0 / 3.0),
    }


def save(folder: Path, data: dict[str, np.ndarray] | None = None) -> Path:
    """The file in a folder, under the official name; default `arrays()`."""
    path = folder / "SMPLX_NEUTRAL.npz"
    np.savez(path, **(arrays() if data is None else data))  # pyright: ignore[reportArgumentType]
    return path


def parameters(people: int, seed: int = 1, num_betas: int = 10, num_expression: int = 10) -> dict[str, np.ndarray]:
    """Random float64 parameters of several people, by `smplx.Params` field; a few metres from the camera."""
    rng = np.random.default_rng(seed)
    return {
        "betas": rng.standard_normal((people, num_betas)),
        "root_rotvec": 1.5 * rng.standard_normal((people, 3)),
        "pose_rotvec": 0.4 * rng.standard_normal((people, J - 1, 3)),
        "translation": np.array([0.0, 0.0, 4.0]) + rng.standard_normal((people, 3)),
        "expression": rng.standard_normal((people, num_expression)),
    }


def _exponential(rotvec: np.ndarray) -> np.ndarray:
    """Rotation matrix of one rotation vector through a unit quaternion (not Rodrigues, on purpose)."""
    angle = np.linalg.norm(rotvec)
    w, (x, y, z) = np.cos(angle / 2), np.sinc(angle / 2 / np.pi) / 2 * rotvec
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def reference(data: dict[str, np.ndarray], person: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One person, joint by joint in float64, in the official convention: the root rotates about the pelvis.

    `person` holds one row of `parameters`. Returns vertices (V, 3), joints (J, 3), orientations (J, 3, 3), keypoints
    (17, 3) and transl (3,): the official translation that puts the pelvis where `translation` says.
    """
    first = 300 if data["shapedirs"].shape[2] == 400 else 10
    betas, expression = person["betas"], person["expression"]
    shaped = data["v_template"] + data["shapedirs"][:, :, : len(betas)].astype(np.float64) @ betas
    shaped = shaped + data["shapedirs"][:, :, first : first + len(expression)].astype(np.float64) @ expression
    rest = data["J_regressor"] @ shaped
    local = [_exponential(r) for r in [person["root_rotvec"], *person["pose_rotvec"]]]
    feature = np.concatenate([(r - np.eye(3)).ravel() for r in local[1:]])
    corrected = shaped + data["posedirs"].astype(np.float64) @ feature
    transl = person["translation"] - rest[0]
    world = []
    for j, parent in enumerate(PARENTS):
        pose = np.eye(4)
        pose[:3, :3] = local[j]
        pose[:3, 3] = rest[j] + transl if j == 0 else rest[j] - rest[parent]
        world.append(pose if j == 0 else world[parent] @ pose)
    world = np.stack(world)
    vertices = np.zeros((V, 3))
    for j in range(J):
        vertices += data["weights"][:, j : j + 1] * ((corrected - rest[j]) @ world[j, :3, :3].T + world[j, :3, 3])
    joints = world[:, :3, 3]
    coco = [vertices[9120], vertices[9448], vertices[9929], vertices[6], vertices[616]]
    coco += [joints[j] for j in (16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)]
    return {
        "vertices": vertices,
        "joints": joints,
        "orientations": world[:, :3, :3],
        "keypoints": np.stack(coco),
        "transl": transl,
    }
