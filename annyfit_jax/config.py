"""Configuration as data: frozen dataclasses, loaded from a `get_config()` file, changed by `--set=path=value`.

    config = load_config("experiments/configs/annyfit.py")
    config = apply_overrides(config, ["stages.pose.lr.pose=0.002", "stages.shape.weights.depth_order=0"])

Every config is hashable (a static argument of `jit`) and has a JSON form and a content hash, which name a job's results.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flax.core import FrozenDict

GROUPS = ("transl", "root_rotvec", "shape", "pose")
"""Parameter groups that a stage can free, in the order of `Variables`."""


def table(**entries: float) -> FrozenDict[str, float]:
    """A hashable name -> number table."""
    return FrozenDict(entries)


@dataclass(frozen=True)
class Stage:
    """One stage of the optimisation: Adam with a fresh state, references taken at its start."""

    name: str
    """Used by `--set=stages.<name>...`."""
    steps: int
    """Adam steps."""
    lr: FrozenDict[str, float]
    """Step size of each free group (`GROUPS`); a group that is not named is frozen."""
    weights: FrozenDict[str, float]
    """Weight of each term (`annyfit_jax.objective.TERMS`); a term that is not named, or weighs 0, is not computed."""


@dataclass(frozen=True)
class LevenbergMarquardt:
    """The second-order solver (`annyfit_jax.second_order`), used where `FitConfig.solver` is `lm`."""

    objective: str = "map"
    """`map`: the objective of `MapObjective`; `released`: the last of `FitConfig.stages`, the ones before it by Adam."""
    rounds: int = 6
    """How often noise scales, visibility and other frozen quantities are estimated anew (`map` only)."""
    iterations: int = 2
    """Iterations per round; `released`: the last stage takes rounds x iterations."""
    damping: float = 1e-3
    """First damping, relative to the diagonal."""
    raise_damping: float = 8.0
    lower_damping: float = 0.2
    converged_nats: float = 0.05
    """A person whose last step promised less than this in energy (`released`: as a share of it) has converged."""


@dataclass(frozen=True)
class MapObjective:
    """The maximum-a-posteriori objective of `annyfit_plus`: switches (each an ablation row), then scales.

    Energies are negative log posteriors, so that no term has a weight: each has a noise scale in its own unit.
    """

    refit_start: bool = True
    """Closed-form robust refit of the translation on the rays of all points, words inserted."""
    rescale_start: bool = True
    """The start's translation is scaled by the change of body height that the words bring."""
    estimate_noise: bool = True
    """Pixel noise per person from size and residuals; off: from size alone."""
    correlated_noise: bool = True
    """Dense points count less where neighbours' residuals agree."""
    metric_depth: bool = True
    """Metric median depth with one unknown log scale per image."""
    visible_depth: bool = True
    """The depth cue is the median over the visible surface; off: the root's depth."""
    class_words: bool = True
    """Age words are probabilities of classes; off: one Gaussian at the anchor."""
    anthropometry: bool = True
    """Height given age and sex as in the WHO-calibrated population; off: 0.5 +- `build_sd`."""
    joint_limits: bool = True
    """Angles beyond anatomical limits cost."""
    interpenetration: bool = True
    """People do not pass through each other (spheres along the limbs)."""
    ground_plane: bool = False
    """The lowest points of the people of an image lie near one plane, robustly."""
    depth_order: str = "auto"
    """Ranking of depth cues: `auto` in scenes without metric depth, `always`, or `never`."""

    noise_share: float = 0.018
    """Pixel noise of a point as a share of the person's extent in the image, before residuals are seen."""
    noise_floor_px: float = 1.2
    noise_prior_points: float = 40.0
    """What `noise_share` counts for, in points, against the residuals."""
    robust_sigmas: float = 5.0
    """Width of the Geman-McClure function of points, in noise scales."""
    min_confidence: float = 0.05
    """Points below this confidence do not count; others count with their confidence squared."""
    depth_sd: float = 0.022
    """Relative error of one person's depth cue."""
    depth_scale_sd: float = 0.06
    """Relative error common to an image's depth cues."""
    depth_robust_sigmas: float = 7.0
    order_sd_m: float = 0.1
    """Ranking: how far a pair may be on the wrong side, metres."""
    pose_sd: FrozenDict[str, float] = field(
        default_factory=lambda: table(spine=0.06, pelvis=0.06, breast=0.06, limb=0.12)
    )
    """Error of the start's rotation vectors per axis, radians, by the beginning of the bone's name; `limb`: the others."""
    root_sd: float = 0.1
    unknown_root_sd: float = 0.5
    """Error of the root orientation of a start from 2D keypoints, radians."""
    age_sd: FrozenDict[str, float] = field(
        default_factory=lambda: table(baby=0.03, toddler=0.045, child=0.06, teenager=0.05, adult=0.07, senior=0.06)
    )
    """Spread of the age phenotype within a class."""
    word_right: float = 0.85
    """Probability that an age word names the right class; neighbours share most of the rest."""
    unknown_age_sd: float = 0.45
    gender_sd: float = 0.15
    unknown_gender_sd: float = 0.4
    height_sd: float = 0.15
    """Spread of the height phenotype about its mean for age and sex."""
    build_sd: float = 0.2
    """Spread of muscle, weight, proportions (and height without `anthropometry`) about 0.5."""
    limit_sd: float = 0.1
    """Joint limits, radians."""
    contact_sd_m: float = 0.03
    """Interpenetration, metres."""
    ground_sd_m: float = 0.06


@dataclass(frozen=True)
class FitConfig:
    """Everything that decides a fit besides its input."""

    stages: tuple[Stage, ...]
    """Run in order."""
    sigma_px: float = 100.0
    """Scale of the Geman-McClure function of both reprojection terms, pixels."""
    keypoint_confidence: float = 0.5
    """Body keypoints below this confidence do not count (dense points have no threshold)."""
    equal_depth_m: float = 0.1
    """Two people whose depth cues differ by at most this are `equal` in the ranking, metres."""
    depth_margin: float = 0.05
    """A ranked pair counts while the fitted gap is smaller than this share of the cue's gap."""
    layer_depth_m: float = 1.0
    """Depth difference that one ordinal layer stands for, where layers replace metric depth, metres."""
    mesh: str = "sampled"
    """`sampled`: the mesh regulariser on weighted vertices; `exact`: on all of them."""
    mesh_samples: int = 256
    """Vertices of the sampled regulariser."""
    frozen_bones: tuple[str, ...] = ()
    """Bones whose name starts with one of these never move (Anny-Fit: face and digits)."""
    words_set_start: bool = True
    """Usable age and gender words overwrite the start's phenotypes."""
    start: str = "auto"
    """`cue`: the feed-forward initialisation; `keypoints`: from 2D keypoints and words; `auto`: the cue where there is one."""
    person_lengths: tuple[int, ...] = ()
    """Lengths of the flat list of people that programs are compiled for; () = chosen for the device."""
    solver: str = "adam"
    """`adam`: `stages` by Adam; `lm`: second order, see `lm` and `map`."""
    lm: LevenbergMarquardt = LevenbergMarquardt()
    map: MapObjective = MapObjective()

    def __post_init__(self) -> None:
        if self.solver not in ("adam", "lm"):
            raise ValueError(f"config.solver must be 'adam' or 'lm', got {self.solver!r}")
        if self.lm.objective not in ("map", "released"):
            raise ValueError(f"config.lm.objective must be 'map' or 'released', got {self.lm.objective!r}")
        if self.map.depth_order not in ("auto", "always", "never"):
            raise ValueError(
                f"config.map.depth_order must be 'auto', 'always' or 'never', got {self.map.depth_order!r}"
            )
        if self.mesh not in ("sampled", "exact"):
            raise ValueError(f"config.mesh must be 'sampled' or 'exact', got {self.mesh!r}")
        if self.start not in ("auto", "cue", "keypoints"):
            raise ValueError(f"config.start must be 'auto', 'cue' or 'keypoints', got {self.start!r}")
        for stage in self.stages:
            unknown = set(stage.lr) - set(GROUPS)
            if unknown:
                raise ValueError(f"stage {stage.name!r} frees unknown groups {sorted(unknown)}; there are {GROUPS}")
            if stage.steps < 0 or any(not lr > 0 for lr in stage.lr.values()):
                raise ValueError(
                    f"stage {stage.name!r}: steps must be >= 0 and step sizes > 0 (leave a frozen group out)"
                )


def load_config(path: str | Path) -> FitConfig:
    """Run the `get_config()` of a Python file and return its `FitConfig`."""
    return run_get_config(path, FitConfig)


Kind = typing.TypeVar("Kind")


def run_get_config(path: str | Path, kind: type[Kind]) -> Kind:
    """What the `get_config()` of a Python file returns. Raises FileNotFoundError, ValueError where that is no `kind`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--config={path}: no such file; the shipped ones are experiments/configs/*.py")
    spec = importlib.util.spec_from_file_location(f"annyfit_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config={path}: the file must define get_config() -> {kind.__name__}")
    config = module.get_config()
    if not isinstance(config, kind):
        raise ValueError(f"--config={path}: get_config() returned {type(config).__name__}, expected {kind.__name__}")
    return config


def apply_overrides(config: FitConfig, assignments: Iterable[str]) -> FitConfig:
    """Return the config with `path=value` assignments applied.

    A path walks fields, table keys, and stages by name or index: `stages.pose.lr.pose=0.002`. Assigning a number to a
    stage's `lr` sets every free group of it. Raises ValueError that names the first step of the path that does not exist.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set={assignment}: expected path=value")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(text.lower(), text)
        config = _assign(config, path.split("."), value, assignment)
    return config


def _assign(node: Any, path: list[str], value: Any, assignment: str) -> Any:
    if not path:
        return _coerce(node, value, assignment)
    key, rest = path[0], path[1:]
    if isinstance(node, FrozenDict):
        if rest and key not in node:
            raise ValueError(f"--set={assignment}: no entry {key!r}; there are {sorted(node)}")
        if rest:
            raise ValueError(f"--set={assignment}: {rest[0]!r} cannot be looked up in {node[key]!r}")
        number = _coerce(0.0, value, assignment)
        return FrozenDict({**node, key: number})
    if isinstance(node, tuple):
        names = [getattr(item, "name", str(i)) for i, item in enumerate(node)]
        if key in names:
            index = names.index(key)
        elif key.isdigit() and int(key) < len(node):
            index = int(key)
        else:
            raise ValueError(f"--set={assignment}: no item {key!r}; there are {names}")
        return (*node[:index], _assign(node[index], rest, value, assignment), *node[index + 1 :])
    if dataclasses.is_dataclass(node):
        names = [f.name for f in dataclasses.fields(node)]
        if key not in names:
            raise ValueError(f"--set={assignment}: {type(node).__name__} has no field {key!r}; it has {names}")
        return dataclasses.replace(
            typing.cast(Any, node), **{key: _assign(getattr(node, key), rest, value, assignment)}
        )
    raise ValueError(f"--set={assignment}: {key!r} cannot be looked up in {node!r}")


def _coerce(old: Any, value: Any, assignment: str) -> Any:
    if isinstance(old, FrozenDict):
        if isinstance(value, dict):
            return FrozenDict({str(k): float(v) for k, v in value.items()})
        return FrozenDict(dict.fromkeys(old, _coerce(0.0, value, assignment)))
    if isinstance(old, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(old, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(old, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(old, tuple):
        if isinstance(value, list | tuple):
            return tuple(value)
    elif isinstance(value, type(old)):
        return value
    raise ValueError(f"--set={assignment}: expected {type(old).__name__}, got {value!r}")


def to_json(config: FitConfig) -> dict:
    """The resolved config as plain JSON data (written beside every result)."""
    return json.loads(json.dumps(_plain(config)))


def from_json(data: dict) -> FitConfig:
    """The inverse of `to_json`. Raises ValueError where a field is missing or unknown, or has a value of the wrong kind."""
    return _from_plain(FitConfig, data, "config")


def _from_plain(kind: Any, data: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        names = {f.name for f in dataclasses.fields(kind)}
        if not isinstance(data, dict) or set(data) != names:
            got = sorted(set(data) ^ names) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{path}: expected the fields of {typing.cast(Any, kind).__name__}; these differ: {got}")
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(**{n: _from_plain(hints[n], data[n], f"{path}.{n}") for n in names})
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(data, list):
        item = typing.get_args(kind)[0]
        return tuple(_from_plain(item, value, f"{path}.{i}") for i, value in enumerate(data))
    if origin is FrozenDict and isinstance(data, dict):
        return table(**{name: _from_plain(float, value, f"{path}.{name}") for name, value in data.items()})
    if origin is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if origin in (bool, int, str) and type(data) is origin:
        return data
    raise ValueError(f"{path}: expected {origin.__name__}, got {data!r}")


def _plain(node: Any) -> Any:
    if dataclasses.is_dataclass(node):
        return {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
    if isinstance(node, FrozenDict):
        return {k: node[k] for k in sorted(node)}
    if isinstance(node, tuple):
        return [_plain(item) for item in node]
    return node


def config_hash(config: FitConfig) -> str:
    """16 hex digits of the config's content."""
    return hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()[:16]


__all__ = [
    "GROUPS", "FitConfig", "LevenbergMarquardt", "MapObjective", "Stage", "apply_overrides", "config_hash", "from_json",
    "load_config", "table", "to_json",
]  # fmt: skip
