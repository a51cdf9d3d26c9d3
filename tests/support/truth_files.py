"""Small files of ground truth in their official layouts."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import pickle
import sys
import types

import numpy as np

from annyfit_jax.exports.humandata_export import write_entries


def bodies(n, seed=0):
    """(n, 19, 4) joints in centimetres about the middle of the dome; the first joint of the last person is unsure."""
    rng = np.random.default_rng(seed)
    joints = np.concatenate([rng.normal((0, -90, 0), 40, (n, 19, 3)), np.full((n, 19, 1), 0.7)], axis=2)
    joints[-1, 0, 3] = 0.19
    return joints


def old_frame(blocks, names, monkeypatch):
    """A data frame as pandas before 1.3 pickles it: the manager's state has the key 0.14.1."""
    modules = {}
    for path in ("pandas", "pandas.core", "pandas.core.frame", "pandas.core.internals", "pandas.core.internals.managers",
                 "pandas.core.indexes", "pandas.core.indexes.base"):  # fmt: skip
        modules[path] = types.ModuleType(path)
        monkeypatch.setitem(sys.modules, path, modules[path])

    def declare(module, name, **body):
        kind = type(name, (), {"__module__": module, **body})
        setattr(modules[module], name, kind)
        return kind

    frame_class = declare(
        "pandas.core.frame", "DataFrame", __getstate__=lambda self: {"_data": self.manager, "_typ": "dataframe"}
    )
    manager_class = declare("pandas.core.internals.managers", "BlockManager", __getstate__=lambda self: self.stored)
    index_class = declare("pandas.core.indexes.base", "Index")

    def _new_Index(cls, d):
        raise AssertionError("never called while writing")

    _new_Index.__module__, _new_Index.__qualname__ = "pandas.core.indexes.base", "_new_Index"
    modules["pandas.core.indexes.base"]._new_Index = _new_Index
    index_class.__reduce__ = lambda self: (_new_Index, (index_class, {"data": self.data, "name": None}))
    axes = []
    for data in (np.array(names, object), np.arange(blocks[0][0].shape[1])):
        axis = index_class()
        axis.data = data
        axes.append(axis)
    frame, manager = frame_class(), manager_class()
    stored = {"axes": axes, "blocks": [{"values": values, "mgr_locs": places} for values, places in blocks]}
    manager.stored = (axes, [values for values, _ in blocks], [], {"0.14.1": stored})
    frame.manager = manager
    return pickle.dumps(frame, protocol=4)


def objects(rows):
    out = np.empty((len(rows), len(rows[0])), object)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            out[i, j] = value
    return out


def agora_frame(monkeypatch, **changes):
    rng = np.random.default_rng(0)
    columns = {
        "imgPath": ["a.png"], "isValid": [[True]], "occlusion": [[0.0]], "kid": [[False]],
        "gt_joints_2d": [[rng.uniform(0, 900, (127, 2))]], "gt_joints_3d": [[rng.normal(size=(127, 3))]],
        "gt_verts": [[rng.normal(size=(10475, 3))]],
    } | changes  # fmt: skip
    columns = {name: column for name, column in columns.items() if column is not None}
    return old_frame([(objects(list(columns.values())), slice(0, len(columns)))], list(columns), monkeypatch)


def write_ply(path, vertices):
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
    header += "property float x\nproperty float y\nproperty float z\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    face = bytes([3]) + np.array([0, 1, 2], "<i4").tobytes()
    path.write_bytes(header.encode() + np.asarray(vertices, "<f4").tobytes() + face)


# ------------------------------------------------------------------------------------------------ HumanData


PICTURES = (
    "egocentric_color/rec_a/PV/0001.jpg",
    "egocentric_color/rec_a/PV/0002.jpg",
    "egocentric_color/rec_b/PV/0001.jpg",
)


def official(people, row):
    """Parameters of `smplx_synthetic`, hands relative to the mean hand, as HumanData has them."""
    pose = people["pose_rotvec"][row]
    return {
        "global_orient": people["root_rotvec"][row], "body_pose": pose[:21], "jaw_pose": pose[21], "leye_pose": pose[22],
        "reye_pose": pose[23], "left_hand_pose": pose[24:39], "right_hand_pose": pose[39:], "betas": people["betas"][row],
        "expression": people["expression"][row], "transl": people["transl"][row],
    }  # fmt: skip


def human_data(path, people, *, without=(), meta=None, body=None, **changes):
    """A file of the three people, the first two of them in one picture; values of None are left out."""
    rows = [official(people, row) for row in range(3)]
    smplx = {name: np.stack([row[name] for row in rows]).astype(np.float32) for name in rows[0] if name not in without}
    points = np.zeros((3, 190, 3), np.float32)
    points[:, :22] = np.arange(3 * 22 * 3).reshape(3, 22, 3)
    mask = np.zeros(190, np.uint8)
    mask[:21] = 1
    box = np.array([[10, 10, 100, 200, 1]] * 3, np.float32)
    content = {
        "__data_len__": np.array(3), "__keypoints_compressed__": np.array(False), "config": np.array("egobody_test"),
        "image_path": np.array([PICTURES[0], PICTURES[0], PICTURES[2]]), "frame_range": np.array([[0, 2], [2, 3]]),
        "bbox_xywh": box, "lhand_bbox_xywh": box, "rhand_bbox_xywh": box, "face_bbox_xywh": box,
        "keypoints2d_smplx": points, "keypoints2d_smplx_mask": mask, "smplx": smplx | (body or {}),
        "meta": {"height": np.full(3, 1080), "width": np.full(3, 1920), "gender": np.array(["male", "neutral", "female"]),
                 "focal_length": np.full((3, 2), 1500.0), "principal_point": np.array([[960.0, 540.0]] * 3)} | (meta or {}),
    } | changes  # fmt: skip
    content["meta"] = {key: value for key, value in content["meta"].items() if value is not None}
    write_entries(path, {key: value for key, value in content.items() if value is not None})
    return str(path)
