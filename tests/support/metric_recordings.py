"""Recorded numbers of public evaluators: the part that a clone has, or all where it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from helpers import GOLDENS, SHARED

KEPT = GOLDENS / "metrics"
MM = 1000.0


def recorded(name: str) -> Path:
    """The whole recording where it is beside the repository, else the part that is kept here."""
    whole = SHARED / "golden" / "metrics" / name
    return whole if whole.exists() else KEPT / name


def read_json(name: str):
    path = recorded(name)
    packed = path.with_suffix(path.suffix + ".gz")
    return json.loads(path.read_text() if path.exists() else gzip.decompress(packed.read_bytes()))


def read_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(recorded(name), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}
