"""Definitions of all metrics. Pure numpy; what a figure means stands in the module it comes from.

| module | figures |
|---|---|
| `scene_scores` | fits of synthetic scenes against exact truth; labelled photos |
| `relative_human_scores` | mPCKh 0.6, PCRD 0.2 per age class, age and gender F1 |
| `panoptic_scores` | BEV's MPJPE per action, root MPJPE and joint PA-MPJPE |
| `agora_scores` | F1, MPJPE, MVE, NMJE, NMVE, hands, face, kids |
| `smplx_sets` | PVE and PA-PVE by parts for EHF, UBody, ARCTIC, EgoBody |
| `greedy_matching`, `detection_scores` | greedy 2D matching, detection rates |
| `joint_errors`, `vertex_errors`, `keypoint_scores`, `depth_order`, `word_scores` | what the protocols are made of |
| `skeletons` | joint sets, and which joints of two sets are compared |
| `people_of_image` | the people of one image, predicted and labelled |
| `bootstrap` | confidence intervals over scenes |

Every protocol has the same two steps: errors of one image, and `pool`, which makes the table from the errors of many. A
published figure keeps its published name with its quirks (each module says which); the sensible variant stands beside it.
"""

from annyfit_jax.metrics.bootstrap import intervals
from annyfit_jax.metrics.depth_order import (
    EQUAL_DEPTH_M,
    DepthPairs,
    depth_pairs,
    depth_relation,
    ordered_pairs,
    pcrd,
)
from annyfit_jax.metrics.greedy_matching import (
    Matches,
    detection_rates,
    match_2d_greedy,
    match_people,
    precision_recall_f1,
)
from annyfit_jax.metrics.joint_errors import (
    at_root,
    centred_scale_align,
    distances,
    hip_centred,
    joint_pa_mpjpe,
    joint_pa_mpjpe_best_of_two,
    mmpose_mpjpe,
    pa_mpjpe,
    pck,
    root_mpjpe,
    rooted_errors,
    scale_align,
    similarity_align,
    visible_pa_mpjpe,
)
from annyfit_jax.metrics.keypoint_scores import pckh
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.metrics.scene_scores import (
    PCKH_SHARE,
    People,
    Truth,
    labelled_errors,
    pool,
    pool_labelled,
    scene_errors,
)
from annyfit_jax.metrics.vertex_errors import TopologyError, pa_pve, part_pa_pve, part_pve, pve, same_topology
from annyfit_jax.metrics.word_scores import (
    AGE_ANCHORS,
    GENDER_ANCHORS,
    age_years,
    class_f1,
    f1_macro,
    f1_macro_present,
    f1_micro,
    f1_weighted,
    gender_side,
    macro_f1,
    nearest_anchor,
    relative_human_age,
    relative_human_gender,
)
from annyfit_jax.people.camera import project

__all__ = [
    "AGE_ANCHORS", "EQUAL_DEPTH_M", "GENDER_ANCHORS", "PCKH_SHARE",
    "DepthPairs", "Matches", "People", "PredictedPeople", "TopologyError", "Truth", "TruthPeople",
    "age_years", "at_root", "centred_scale_align", "class_f1", "depth_pairs", "depth_relation", "detection_rates",
    "distances", "f1_macro", "f1_macro_present", "f1_micro", "f1_weighted", "gender_side", "hip_centred", "intervals",
    "joint_pa_mpjpe", "joint_pa_mpjpe_best_of_two", "labelled_errors", "macro_f1", "match_2d_greedy", "match_people",
    "mmpose_mpjpe", "nearest_anchor", "ordered_pairs", "pa_mpjpe", "pa_pve", "part_pa_pve", "part_pve", "pck", "pckh",
    "pcrd", "pool", "pool_labelled", "precision_recall_f1", "project", "pve", "relative_human_age",
    "relative_human_gender", "root_mpjpe", "rooted_errors", "same_topology", "scale_align", "scene_errors",
    "similarity_align", "visible_pa_mpjpe",
]  # fmt: skip
