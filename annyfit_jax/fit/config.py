"""Configuration as data: frozen dataclasses, loaded from a `get_config()` file, changed by `--set=path=value`.

    config = load_config("experiments/configs/annyfit.py")
    config = apply_overrides(config, ["stages.pose.lr.pose=0.002", "stages.shape.weights.depth_order=0"])

Every config is hashable (a static argument of `jit`) and has a JSON form and a content hash, which name a job's results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from flax.core import FrozenDict

from annyfit_jax.records.settings import from_plain, run_get_config, table

GROUPS = ("transl", "root_rotvec", "shape", "pose")
"""Parameter groups that a stage can free, in the order of `Variables`."""


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
    """Weight of each term (`annyfit_jax.fit.objective.TERMS`); a term that is not named, or weighs 0, is not computed."""


@dataclass(frozen=True)
class LevenbergMarquardt:
    """The second-order solver (`annyfit_jax.fit.second_order`), used where `FitConfig.solver` is `lm`."""

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
    """A person has converged whose last step promised to save less energy (`released`: less than this share of it)."""


@dataclass(frozen=True)
class MapObjective:
    """The maximum-a-posteriori objective: switches (each an ablation row), then scales.

    Energies are negative log posteriors, so that no term has a weight: each has a noise scale in its own unit.
    """

    starts: int = 1
    """Searched starts of a person whose pose is not known (2D keypoints alone); the lowest energy is kept, the others become
    uncertainty. Feed-forward estimates are their own only start. 0: no search, `lifted` starts alone."""
    lifted: int = 2
    """Starts of such a person from the likeliest hypotheses of the lifter (`annyfit_jax.lifting`), beside the searched ones."""
    lifted_ages: bool = False
    """People without an age word start at the age that the lifter reads from their proportions, not as adults."""
    lifter_nats: float = 0.0
    """What the lifter's own log density of a pose counts for where the best of several starts is chosen; 0: not at all."""
    landmark_start: bool = False
    """One more start from metric landmarks (`fit.landmark_start`) for people who have them. Off: on 16 photos of a real man
    it found lower energies, but no lower errors (`experiments/results/photo_networks.md`)."""
    refit_start: bool = True
    """Closed-form robust refit of the translation on the rays of all points, words inserted."""
    rescale_start: bool = True
    """The start's translation is scaled by the change of body height that the words bring."""
    pose_prior: bool = True
    """Mixture of Gaussians over poses from motion capture, where the start knows no pose; off: one relaxed pose."""
    gravity: bool = True
    """People mostly stand or hold their trunk upright; pitch and roll of the camera are unknowns of the scene."""
    turned_pictures: bool = True
    """The camera may be rolled by a quarter or half turn: a turned picture gives the same people, turned."""
    ground_plane: bool = True
    """Lowest points of the people lie on one floor, robustly; in scenes of three people or more, or with words."""
    focal_length: bool = True
    """The focal length is an unknown of the scene where it was guessed, not given."""
    visible_face: bool = True
    """Faces whose nose and eyes are marked are turned to the camera."""
    keypoint_offsets: bool = True
    """Detectors place keypoints where their convention says, not where the body's regressors do."""
    swapped_sides: bool = True
    """Starts with left and right exchanged: of the whole body, the legs, the arms."""
    known_facts: bool = True
    """Body heights, distances, pitch, roll and height of the camera where the input tells them."""
    estimate_noise: bool = True
    """Pixel noise per person from size and residuals of the dense points; off: from size alone."""
    correlated_noise: bool = True
    """Dense points count less where neighbours' residuals agree."""
    metric_depth: bool = True
    """Metric median depth with one unknown log scale per image."""
    estimate_depth_noise: bool = True
    """Noise of an image's depth cues from how far they disagree with the sizes of its people."""
    visible_depth: bool = True
    """The depth cue is the median over the visible surface; off: the root's depth."""
    class_words: bool = True
    """Age words are probabilities of classes with ranges, and so is their absence; off: a wide Gaussian."""
    anthropometry: bool = True
    """Height given age and sex as in the WHO-calibrated population; off: 0.5 +- `build_sd`."""
    joint_limits: bool = True
    """Angles beyond anatomical limits cost."""
    interpenetration: bool = True
    """People do not pass through each other (spheres along the limbs)."""
    depth_order: str = "auto"
    """Ranking of depth cues: `auto` in scenes without metric depth, `always`, or `never`."""

    noise_share: float = 0.0105
    """Pixel noise of a point as a share of the person's size in the picture, before residuals are seen."""
    noise_prior_points: float = 40.0
    """What `noise_share` counts for, in points, against the residuals."""
    robust_sigmas: float = 5.0
    """Width of the Geman-McClure function of points, in noise scales."""
    robust_widening: float = 4.0
    """Factor of that width at the beginning; it falls to 1 over the first half of the rounds."""
    min_confidence: float = 0.05
    """Points below this confidence do not count; others count with their confidence squared."""
    pose_prior_precision: float = 0.25
    """What the mixture of poses counts for: the motion capture is of few people and activities."""
    swap_nats: float = 2.0
    """Cost of exchanged sides."""
    alternatives_nats: float = 1.0
    """Temperature of the posterior over the ends of several starts: how much their energies count for."""
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
    unknown_root_sd: float = 100.0
    """Error of the root orientation of a start from 2D keypoints, radians: it says next to nothing."""
    standing_sd: float = 0.14
    """Those who stand: spread of the direction from ankles to shoulders about the world's up."""
    standing_share: float = 0.55
    trunk_sd: float = 0.3
    """Those who hold their trunk upright: spread of the direction from hips to shoulders."""
    trunk_share: float = 0.35
    pitch_degrees: float = 7.0
    """The camera looks down by so much."""
    pitch_sd_degrees: float = 15.0
    roll_sd_degrees: float = 6.0
    camera_height_m: float = 1.4
    """Above the ground."""
    camera_height_sd_m: float = 1.0
    ground_sd_m: float = 0.15
    focal_sd: float = 0.3
    """Spread of the log of a guessed focal length."""
    age_low: FrozenDict[str, float] = field(
        default_factory=lambda: table(baby=0.01, toddler=0.06, child=0.23, teenager=0.44, adult=0.62, senior=0.84)
    )
    """Range of the age phenotype of each class, up to `age_high`, with ends as soft as `age_soft`."""
    age_high: FrozenDict[str, float] = field(
        default_factory=lambda: table(baby=0.04, toddler=0.17, child=0.40, teenager=0.56, adult=0.80, senior=0.96)
    )
    age_soft: float = 0.03
    age_share: FrozenDict[str, float] = field(
        default_factory=lambda: table(baby=0.03, toddler=0.06, child=0.12, teenager=0.09, adult=0.58, senior=0.12)
    )
    """Share of each age class among people without a word."""
    supposed_ages: tuple[str, ...] = ("baby", "toddler", "child")
    """The best body of a person without an age word is tried at these ages too, each for one round; the lowest energy is kept,
    the others become uncertainty. Where nothing is told, people start as adults."""
    supposed_age_nats: float = 1.0
    """What a supposed age costs where the best is chosen: nothing but a short solve speaks for it."""
    word_right: float = 0.85
    """Probability that an age word names the right class; neighbours share most of the rest."""
    unknown_age_sd: float = 0.45
    """Spread of the age phenotype without `class_words`."""
    gender_sd: float = 0.15
    unknown_gender_sd: float = 0.4
    height_sd: float = 0.1
    """Spread of the height phenotype about its mean for age and sex: .075 in WHO's population of adults."""
    build_sd: float = 0.2
    """Spread of muscle, weight, proportions (and height without `anthropometry`) about 0.5."""
    limit_sd: float = 0.1
    """Joint limits, radians."""
    contact_sd_m: float = 0.03
    """Interpenetration, metres."""


@dataclass(frozen=True)
class PartFit:
    """Hands, head and feet, fitted to their points after the body (`annyfit_jax.fit.parts`), whatever solver fitted that."""

    on: bool = True
    """Without such points nothing is fitted anyway."""
    min_confidence: float = 0.2
    """Points below this confidence do not count; others count with their confidence squared."""
    noise_share: float = 0.04
    """Pixel noise of a point as a share of the part's size in the picture, before residuals are seen."""
    noise_floor_px: float = 0.7
    noise_prior_points: float = 20.0
    """What `noise_share` counts for, in points, against the residuals."""
    robust_sigmas: float = 4.0
    """Width of the Geman-McClure function, in noise scales."""
    robust_widening: float = 4.0
    """Factor of that width at the beginning; it falls to 1 over the first half of the iterations."""
    outlier_sigmas: float = 4.0
    """A part is left alone where fewer than `inlier_share` of its points come so near, in noise scales."""
    inlier_share: float = 0.5
    iterations: int = 12
    every: int = 3
    """Noise is estimated anew every so many iterations."""
    damping: float = 1e-2


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
    parts: PartFit = PartFit()

    @property
    def searches_starts(self) -> bool:
        """Whether the fit itself searches for starts where there is none."""
        return self.solver == "lm" and self.lm.objective == "map"

    def __post_init__(self) -> None:
        if self.solver not in ("adam", "lm"):
            raise ValueError(f"config.solver must be 'adam' or 'lm', got {self.solver!r}")
        if self.lm.objective not in ("map", "released"):
            raise ValueError(f"config.lm.objective must be 'map' or 'released', got {self.lm.objective!r}")
        if self.lm.rounds < 1 or self.lm.iterations < 1:
            raise ValueError(
                f"config.lm: rounds and iterations must be at least 1, got {self.lm.rounds} and {self.lm.iterations}"
            )
        if not self.sigma_px > 0:
            raise ValueError(f"config.sigma_px must be positive, got {self.sigma_px}")
        if self.map.depth_order not in ("auto", "always", "never"):
            raise ValueError(
                f"config.map.depth_order must be 'auto', 'always' or 'never', got {self.map.depth_order!r}"
            )
        if self.mesh not in ("sampled", "exact"):
            raise ValueError(f"config.mesh must be 'sampled' or 'exact', got {self.mesh!r}")
        if self.map.starts < 0 or self.map.lifted < 0:
            raise ValueError(
                f"config.map: starts and lifted must not be negative, got {self.map.starts} and {self.map.lifted}"
            )
        if self.start not in ("auto", "cue", "keypoints"):
            raise ValueError(f"config.start must be 'auto', 'cue' or 'keypoints', got {self.start!r}")
        _check_tables(self.map)
        if unknown_ages := set(self.map.supposed_ages) - set(self.map.age_low):
            raise ValueError(
                f"config.map.supposed_ages: unknown {sorted(unknown_ages)}; there are {sorted(self.map.age_low)}"
            )
        for stage in self.stages:
            unknown = set(stage.lr) - set(GROUPS)
            if unknown:
                raise ValueError(f"stage {stage.name!r} frees unknown groups {sorted(unknown)}; there are {GROUPS}")
            if not all(math.isfinite(weight) for weight in stage.weights.values()):
                raise ValueError(f"stage {stage.name!r}: weights: expected finite numbers, got {dict(stage.weights)}")
            if stage.steps < 0 or any(not lr > 0 for lr in stage.lr.values()):
                raise ValueError(
                    f"stage {stage.name!r}: steps must be >= 0 and step sizes > 0 (leave a frozen group out)"
                )


def _check_tables(config: MapObjective) -> None:
    """Raises ValueError for an entry of a table that nothing reads."""
    default = MapObjective()
    for entry in fields(config):
        table, known = getattr(config, entry.name), getattr(default, entry.name)
        if isinstance(known, FrozenDict) and (unknown := set(table) - set(known)):
            raise ValueError(
                f"config.map.{entry.name}: no entry {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}"
            )


def load_config(path: str | Path) -> FitConfig:
    """Run the `get_config()` of a Python file and return its `FitConfig`."""
    return run_get_config(path, FitConfig)


def from_json(data: dict) -> FitConfig:
    """The inverse of `to_json`. Raises ValueError where a field is missing or unknown, or has a value of the wrong kind."""
    return from_plain(FitConfig, data, "config")
