"""Licences of the checkpoints that the adapters know, as their publishers state them on the hub.

A checkpoint that is not here counts as non-commercial until its user says otherwise (`--set=depth.licence=apache-2.0`).
"""

from __future__ import annotations

from experts.interfaces import Card

PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0")
"""Licences that allow commercial use."""

LICENCES: dict[str, str] = {
    "PekingU/rtdetr_r50vd_coco_o365": "apache-2.0",
    "PekingU/rtdetr_r101vd_coco_o365": "apache-2.0",
    "PekingU/rtdetr_v2_r50vd": "apache-2.0",
    "ustc-community/dfine-large-obj2coco-e25": "apache-2.0",
    "ustc-community/dfine-xlarge-obj2coco": "apache-2.0",
    "IDEA-Research/grounding-dino-tiny": "apache-2.0",
    "IDEA-Research/grounding-dino-base": "apache-2.0",
    "facebook/sam2.1-hiera-tiny": "apache-2.0",
    "facebook/sam2.1-hiera-small": "apache-2.0",
    "facebook/sam2.1-hiera-base-plus": "apache-2.0",
    "facebook/sam2.1-hiera-large": "apache-2.0",
    "usyd-community/vitpose-base-simple": "apache-2.0",
    "usyd-community/vitpose-plus-base": "apache-2.0",
    "usyd-community/vitpose-plus-large": "apache-2.0",
    "usyd-community/vitpose-plus-huge": "apache-2.0",
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf": "apache-2.0",
    "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf": "apache-2.0",
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf": "cc-by-nc-4.0",
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf": "cc-by-nc-4.0",
    "depth-anything/Depth-Anything-V2-Metric-Outdoor-Base-hf": "cc-by-nc-4.0",
    "depth-anything/Depth-Anything-V2-Metric-Outdoor-Large-hf": "cc-by-nc-4.0",
    "apple/DepthPro-hf": "apple-amlr",
    "lpiccinelli/unidepth-v2-vitl14": "cc-by-nc-4.0",
    "lpiccinelli/unidepth-v2-vitb14": "cc-by-nc-4.0",
    "lpiccinelli/unidepth-v2-vits14": "cc-by-nc-4.0",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen-research",
    "Qwen/Qwen2.5-VL-7B-Instruct": "apache-2.0",
    "Qwen/Qwen2-VL-2B-Instruct": "apache-2.0",
    "Qwen/Qwen2-VL-7B-Instruct": "apache-2.0",
    "Qwen/Qwen3-VL-4B-Instruct": "apache-2.0",
    "Qwen/Qwen3-VL-8B-Instruct": "apache-2.0",
}


def card_of(expert: str, checkpoint: str, version: str, licence: str = "") -> Card:
    """The card of an expert with weights. `licence` is what the user states; else the table's."""
    stated = licence or LICENCES.get(checkpoint, "")
    return Card(expert, checkpoint, version, stated, stated.lower() in PERMISSIVE)
