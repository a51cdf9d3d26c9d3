"""The weights that ship: a file of float16 arrays, with what they were trained on and what they reached.

`annyfit_jax/data/lifter.npz` is made by `experiments.builders.build_lifter`. The poses it was trained on are of the CMU
Graphics Lab Motion Capture Database and of this project's own postures; the file holds no poses.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from annyfit_jax.lifting import lifter_network
from annyfit_jax.lifting.lift import Lifter
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_rig import load_rig
from body_models import linear
from body_models.anny import AnnyModel

_ABOUT = "about"
"""Entry of the file that tells config, licence and figures, JSON."""


def shipped() -> Path:
    """The file of the installation."""
    return Path(str(importlib.resources.files("annyfit_jax") / "data" / "lifter.npz"))


def write_weights(path: str | Path, config: LifterConfig, variables: nnx.State, about: dict[str, Any]) -> None:
    """Writes variables as float16, with the config and what else is told of them."""
    arrays = {_name(at): np.asarray(leaf[...], np.float16) for at, leaf in nnx.to_flat_state(variables)}
    text = json.dumps({"config": dataclasses.asdict(config)} | about)
    np.savez(path, allow_pickle=False, **arrays, **{_ABOUT: np.array(text)})


def read_weights(path: str | Path) -> tuple[LifterConfig, nnx.State, dict[str, Any]]:
    """Config, variables (float32) and what is told of them. Raises ValueError for a file of another network."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop(_ABOUT)))
    config = LifterConfig(**about.pop("config"))
    shapes = jax.eval_shape(lambda: lifter_network.init(config, jax.random.key(0)))
    flat = []
    for at, leaf in nnx.to_flat_state(shapes):
        found = arrays.get(_name(at))
        if found is None or found.shape != leaf.shape:
            raise ValueError(f"{path}: expected {_name(at)} of shape {leaf.shape}")
        flat.append((at, leaf.replace(linear.on_device(found, np.float32))))
    return config, nnx.from_flat_state(flat), about


def _name(path: tuple) -> str:
    return ".".join(str(part) for part in path)


@functools.cache
def shipped_weights() -> tuple[LifterConfig, nnx.State]:
    """Config and variables of the installation, read once."""
    return read_weights(shipped())[:2]


def load_lifter(model: AnnyModel, path: str = "") -> Lifter:
    """The lifter of the installation, or of another file of weights, for a body model."""
    config, variables = read_weights(path)[:2] if path else shipped_weights()
    return Lifter(load_rig(model), variables, config)
