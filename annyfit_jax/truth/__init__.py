"""Ground truth of data sets in the layouts their makers publish, as the metrics want it. No data set is part of this project.

| protocol | what `open_truth` reads |
|---|---|
| `relative_human` | `<split>_annots.npz` of Relative Human, or the same as `.json` |
| `panoptic` | CMU Panoptic Studio: `calibration_<sequence>.json` and `hdPose3d_stage1_coco19/`, or BEV's `panoptic_annot/*.pkl`, `annots.npz` |
| `agora` | AGORA's ground-truth data frames `*_withjv.pkl` with joints and vertices |
| `ehf` | EHF: `<n>_align.ply` beside the pictures |
| `ubody` | UBody: `annotations/<scene>/keypoint_annotation.json` and `smplx_annotation.json`, or HumanData `.npz` |
| `arctic`, `egobody` | ARCTIC, EgoBody: HumanData `.npz` with SMPL-X parameters in camera axes |

Synthetic scenes and labelled photos are inputs like any other (`annyfit_jax.inputs`); `synthetic_truth` takes the truth out of them.
Files are read as if they came from strangers: pickles run no code, sizes are checked, and what is wrong is one SceneError
that names file, field and expected shape.
"""  # noqa: E501 (table rows)

from annyfit_jax.truth.truth_source import PROTOCOLS, TruthOptions, TruthSource, open_truth

__all__ = ["PROTOCOLS", "TruthOptions", "TruthSource", "open_truth"]
