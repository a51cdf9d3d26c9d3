"""The front door of truth: what is not there is named."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import pytest

from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth

# ------------------------------------------------------------------------------------------------ the front door


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(SceneError, match="no such file or folder"):
        open_truth("agora", str(tmp_path / "none"))
    with pytest.raises(
        SceneError, match="expected one of relative_human, panoptic, agora, ehf, ubody, arctic, egobody"
    ):
        open_truth("coco", str(tmp_path))
    for protocol, text in {
        "relative_human": "test_annots.npz",
        "panoptic": "no CMU Panoptic poses; looked for",
        "agora": "no data frames",
        "ehf": "no EHF meshes",
        "ubody": "no UBody annotations",
        "arctic": r"no HumanData files \(\*\.npz\)",
        "egobody": r"no HumanData files \(\*\.npz\)",
    }.items():
        with pytest.raises(SceneError, match=text):
            open_truth(protocol, str(tmp_path))
    with pytest.raises(SceneError, match="option pattern: not a regular expression"):
        TruthOptions(pattern="(")
    with pytest.raises(SceneError, match="option frame_step: expected 1 or more, got 0"):
        TruthOptions(frame_step=0)
