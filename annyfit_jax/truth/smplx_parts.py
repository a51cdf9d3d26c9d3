"""Numbers of the SMPL-X vertices of hands, face and body, from the files that SMPL-X and AGORA distribute (not part of this project).

| file in the folder | content |
|---|---|
| `MANO_SMPLX_vertex_ids.pkl` | {`left_hand`, `right_hand`: (778,)} |
| `SMPL-X__FLAME_vertex_ids.npy` | (5023,) head and face |
| `body_verts_smplx.npy`, `body_verts_smpl.npy` | AGORA's body vertices of SMPL-X (4010,) and of SMPL, for MVE |
"""  # noqa: E501 (title)

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_pickle
from body_models.smplx_file import NUM_VERTICES

HANDS, FACE = "MANO_SMPLX_vertex_ids.pkl", "SMPL-X__FLAME_vertex_ids.npy"
BODY, SMPL_BODY = "body_verts_smplx.npy", "body_verts_smpl.npy"
SMPL_VERTICES = 6890
_MAX_BYTES = 1 << 20


def read_parts(folder: str | None) -> dict[str, Int[np.ndarray, "m"]]:
    """`left_hand`, `right_hand`, `face`, `body` of SMPL-X, `smpl_body` of SMPL: those whose file is in the folder.

    Raises SceneError on a wrong file, or where there is none.
    """
    out: dict[str, np.ndarray] = {}
    if folder is None:
        return out
    root = Path(folder)
    if not root.is_dir():
        raise SceneError(f"{folder}: no such folder; expected {HANDS}, {FACE} or {BODY}")
    if (root / HANDS).is_file():
        hands = read_pickle(root / HANDS)
        if not isinstance(hands, dict):
            raise SceneError(f"{root / HANDS}: expected a dictionary with left_hand and right_hand")
        out |= {side: _numbers(hands.get(side, []), f"{root / HANDS}: {side}") for side in ("left_hand", "right_hand")}
    for name, file, count in (
        ("face", FACE, NUM_VERTICES), ("body", BODY, NUM_VERTICES), ("smpl_body", SMPL_BODY, SMPL_VERTICES),
    ):  # fmt: skip
        if (root / file).is_file():
            out[name] = _numbers(read_npy(root / file), str(root / file), count)
    if not out:
        raise SceneError(f"{folder}: none of {HANDS}, {FACE}, {BODY}, {SMPL_BODY} is there")
    return out


def read_npy(path: Path) -> np.ndarray:
    """A small `.npy` of plain numbers or text. Raises SceneError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SceneError(f"{path}: larger than {_MAX_BYTES} bytes")
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error})") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise SceneError(f"{path}: not a readable .npy file ({error})") from error


def _numbers(value: object, where: str, count: int = NUM_VERTICES) -> np.ndarray:
    numbers = checked_array(value, where, ("m",), np.int64)
    if not len(numbers) or numbers.min() < 0 or numbers.max() >= count:
        raise SceneError(f"{where}: expected vertex numbers in 0..{count - 1}, shape (m,), m > 0")
    return numbers
