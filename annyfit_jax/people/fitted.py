"""The fitted people of a scene, `SceneFit`, and everything that the project knows of its fields, each declared once.

A field is declared in `SceneFit` with a `Fact`: shape, unit, meaning, first version, and where it is stored and shown.
Everything else derives from `FACTS`: fit files (`records.fit_files`), rows of jobs and `people.jsonl` (`jobs.job_rows`), the
Parquet table (`exports.tables`), the training set (`exports.training_set`), COCO and `.npz` files (`exports.coco_export`,
`exports.scene_files`), columns of the report (`report.report_columns`), and the tables of README and docs (`markdown`).

To add a field, add it to `SceneFit` with `since=FORMAT_VERSION + 1` (which raises `FORMAT_VERSION` for all that is written from
then on) and say in its `Fact` where it goes. Files and rows of older versions are read with `Fact.unknown` in its place.

Frame of everything: camera axes (x right, y down, z forward), metres, radians. `transl` is the root bone's head, a point in
the lower back. `shape` and `pose` are inside the body's ranges: what you load is the body you saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from annyfit_jax.people.scene import BodyParameters, SmplxParameters
from body_models import smplx
from body_models.anny import PHENOTYPE_LABELS

FRAME = "camera axes: x right, y down, z forward; metres; radians; transl = head of the root bone"
NUM_BONES, NUM_PHENOTYPES = 162, len(PHENOTYPE_LABELS)

Kind = Literal["float32", "int32", "bool", "texts", "text"]


@dataclass(frozen=True)
class Fact:
    """What is known of a field of `SceneFit`."""

    shape: tuple[int | str, ...]
    """Letters agree within a fit; `n` counts the people. () for a single value."""
    meaning: str
    """In words that a table can hold."""
    unit: str = ""
    kind: Kind = "float32"
    since: int = 1
    """First version of files and rows that has the field. A field of a later version than 1 may be left out."""
    unknown: float = np.nan
    """What stands where the value is not known, for example in files of an older version."""
    row: bool = False
    """Stored in the rows of jobs, for fields with one row per person."""
    parts: tuple[str, ...] = ()
    """Names of the numbers along the last axis, where each gets a column of its own in tables."""
    table: bool = False
    """A column of the Parquet table, or one for each of `parts`."""
    listed: tuple[str, ...] = ()
    """What of it stands in `people.jsonl`: its own name, or some of `parts`."""
    training: str = ""
    """Name in the training set, if it is there."""
    exported: str = ""
    """Name in the entries of exported COCO and `.npz` files, if it is there."""
    label: str = ""
    """Title of the column in the report, if it has one. Of a field with several numbers the root mean square is shown."""
    digits: int = 2
    worse: str = ""
    """Which end of the column deserves a look in the report: `high`, `low`, or neither."""

    @property
    def per_person(self) -> bool:
        """Whether the first axis counts people."""
        return self.shape[:1] == ("n",)

    def row_shape(self, bones: int = NUM_BONES, phenotypes: int = NUM_PHENOTYPES) -> tuple[int, ...]:
        """The shape of one person's row, for a body with these numbers of posed bones and shape parameters."""
        sizes = {"bones": bones, "phenotypes": phenotypes}
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape[1:])

    def absent(self, n: int) -> Any:
        """The field for n people of whom it is not known; of a scene's text the empty one."""
        if self.kind == "text":
            return ""
        return np.full((n, *self.row_shape()), self.unknown, self.kind)


def _is(*shape: int | str, meaning: str, **facts: Any) -> dict[str, Fact]:
    """The metadata of a field."""
    return {"fact": Fact(shape, meaning, **facts)}


PARTS = ("left_hand", "right_hand", "head", "left_foot", "right_foot")
"""What fields of parts have a number for, in this order."""


def _of_parts(what: str) -> tuple[str, ...]:
    """Names of columns."""
    return tuple(f"{part}_{what}" for part in PARTS)


_LEFT_OUT = np.zeros(0, np.float32)


def _left_out() -> np.ndarray:
    return _LEFT_OUT


@dataclass
class SceneFit:
    """Fitted parameters of the n people of one input scene, in the input's order; NaN rows where nothing was fitted."""

    name: str = field(metadata=_is(kind="text", meaning="name of the scene"))
    image_size: np.ndarray = field(metadata=_is(2, kind="int32", unit="pixels", meaning="width, height"))
    image_path: str = field(metadata=_is(kind="text", meaning="the photo, or empty"))
    K: np.ndarray = field(metadata=_is(3, 3, unit="pixels", meaning="intrinsics"))
    person_ids: np.ndarray = field(metadata=_is("n", kind="texts", meaning="the input's name of each person"))
    status: np.ndarray = field(metadata=_is("n", kind="texts", meaning="`ok`, `failed:<reason>` or `skipped:<reason>`"))
    notes: np.ndarray = field(
        metadata=_is("n", kind="texts", meaning="what was missing or repaired, separated by `;`, e.g. `no_words`")
    )
    root_rotvec: np.ndarray = field(
        metadata=_is(
            "n", 3, unit="radians, camera axes", meaning="rotation vector of the root bone", row=True, table=True,
            parts=("root_x", "root_y", "root_z"), training="root_rotvec", exported="root_rotvec",
        )
    )  # fmt: skip
    transl: np.ndarray = field(
        metadata=_is(
            "n", 3, unit="metres, camera axes", meaning="position of the root bone's head", row=True, table=True,
            parts=("transl_x", "transl_y", "transl_z"), training="transl", exported="transl",
        )
    )  # fmt: skip
    pose: np.ndarray = field(
        metadata=_is(
            "n", "bones", 3, unit="radians", row=True, training="pose", exported="pose",
            meaning="rotation vector of each of the 162 bones in its rest frame; names in `bone_labels`",
        )
    )  # fmt: skip
    shape: np.ndarray = field(
        metadata=_is(
            "n", "phenotypes", unit="0 to 1", row=True, table=True, parts=tuple(PHENOTYPE_LABELS), listed=("age", "gender"),
            training="shape", exported="shape",
            meaning="phenotypes inside the body's range: gender, age, muscle, weight, height, proportions",
        )
    )  # fmt: skip
    shape_raw: np.ndarray = field(
        metadata=_is(
            "n", "phenotypes", unit="0 to 1", meaning="the shape as optimised, which may lie outside the range"
        )
    )
    start_root_rotvec: np.ndarray = field(
        metadata=_is("n", 3, unit="radians, camera axes", meaning="`root_rotvec` at the start")
    )
    start_transl: np.ndarray = field(metadata=_is("n", 3, unit="metres, camera axes", meaning="`transl` at the start"))
    start_pose: np.ndarray = field(metadata=_is("n", "bones", 3, unit="radians", meaning="`pose` at the start"))
    start_shape: np.ndarray = field(metadata=_is("n", "phenotypes", unit="0 to 1", meaning="`shape` at the start"))
    start_origin: str = field(
        metadata=_is(kind="text", meaning="`cue` (feed-forward initialisation) or `keypoints`: where the start is from")
    )
    height_m: np.ndarray = field(
        metadata=_is(
            "n", unit="metres", meaning="vertical extent of the resting body", row=True, table=True, listed=("height_m",),
            training="height_m", exported="height_m", label="Height",
        )
    )  # fmt: skip
    depth_m: np.ndarray = field(
        metadata=_is(
            "n", unit="metres", meaning="camera z of the root bone", row=True, table=True, listed=("depth_m",),
            training="depth_m", exported="depth_m", label="Depth",
        )
    )  # fmt: skip
    reprojection_px: np.ndarray = field(
        metadata=_is(
            "n", unit="pixels", row=True, table=True, listed=("reprojection_px",), training="reprojection_px",
            exported="reprojection_px", label="Reprojection", digits=1, worse="high",
            meaning="mean error of the confident body keypoints; NaN without such a keypoint",
        )
    )  # fmt: skip
    start_reprojection_px: np.ndarray = field(
        metadata=_is(
            "n", unit="pixels", meaning="the same at the start", row=True, table=True, listed=("start_reprojection_px",),
            training="start_reprojection_px",
        )
    )  # fmt: skip
    age_word: np.ndarray = field(
        metadata=_is(
            "n", unit="0 to 1", unknown=-1.0, row=True, training="age_cue",
            meaning="anchor of the word for the age that the fit was given, -1 = none",
        )
    )  # fmt: skip
    gender_word: np.ndarray = field(
        metadata=_is(
            "n", unit="0 to 1", unknown=-1.0, row=True, training="gender_cue",
            meaning="anchor of the word for the gender that the fit was given, -1 = none",
        )
    )  # fmt: skip
    keypoints_2d: np.ndarray = field(
        metadata=_is(
            "n", 17, 3, unit="pixels, confidence", row=True, training="keypoints_2d",
            meaning="COCO keypoints that the fit was given",
        )
    )  # fmt: skip
    fitted_keypoints_3d: np.ndarray = field(
        metadata=_is(
            "n", 17, 3, unit="metres, camera axes", meaning="COCO keypoints of the fitted body", row=True,
            training="keypoints_3d", exported="keypoints_3d",
        )
    )  # fmt: skip
    loss_names: np.ndarray = field(metadata=_is("terms", kind="texts", meaning="terms of the objective"))
    loss_curve: np.ndarray = field(
        metadata=_is(
            "steps", "losses", meaning="weighted value of every term at every step; NaN where a stage lacks it"
        )
    )
    bone_labels: np.ndarray = field(metadata=_is("labels", kind="texts", meaning="rows of `pose`"))
    phenotype_labels: np.ndarray = field(metadata=_is("columns", kind="texts", meaning="columns of `shape`"))
    asset_version: str = field(metadata=_is(kind="text", meaning="version of the body's data"))
    config_hash: str = field(metadata=_is(kind="text", meaning="names the config"))
    config_json: str = field(metadata=_is(kind="text", meaning="the config in full"))
    scene_notes: np.ndarray = field(metadata=_is("remarks", kind="texts", meaning="what the reader assumed"))
    set_aside: np.ndarray = field(
        metadata=_is("aside", 2, kind="texts", meaning="(person id, reason) of people that the reader set aside")
    )
    frame: str = field(default=FRAME, metadata=_is(kind="text", meaning="axes and units in words"))
    format_version: int = field(default=0, metadata=_is(kind="int32", meaning="version of this table"))
    depth_cue_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is("n", unit="metres", meaning="metric depth cue", row=True, table=True, since=2),
    )
    depth_scale: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=2, row=True, table=True,
            meaning="factor that the fit found for the depth cues of the scene, the same for all its people",
        ),
    )  # fmt: skip
    visible_depth_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", unit="metres", since=2, row=True, table=True,
            meaning="median camera z of the visible surface: what `depth_cue_m` times `depth_scale` measures",
        ),
    )  # fmt: skip
    sd_depth_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", unit="metres", meaning="standard deviation of `depth_m`", since=2, row=True, table=True,
            training="sd_depth_m", label="Depth ±", worse="high",
        ),
    )  # fmt: skip
    sd_height_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", unit="metres", meaning="standard deviation of `height_m`", since=2, row=True, table=True,
            training="sd_height_m", label="Height ±", worse="high",
        ),
    )  # fmt: skip
    sd_joints_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 17, unit="metres", since=2, row=True, training="sd_joints_m", label="Joints ±", digits=3, worse="high",
            meaning="root mean square distance to be expected of `fitted_keypoints_3d`",
        ),
    )  # fmt: skip
    converged: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=2, row=True, table=True, label="Converged", digits=0, worse="low",
            meaning="1 where the solver had little left to gain, else 0",
        ),
    )  # fmt: skip
    spread_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=3, unit="metres", row=True, table=True, label="Spread of starts", worse="high",
            meaning="how far the joints of other starts' ends are from these, hips aligned, weighed by how well they explain "
            "the cues: root mean square; large where other postures explain the picture as well",
        ),
    )  # fmt: skip
    seen: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 17, since=3, row=True,
            meaning="1 where the cue has the keypoint with confidence, 0 where the fit has it from its priors alone",
        ),
    )  # fmt: skip
    camera: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 3, since=3, unit="radians, radians, metres", row=True, table=True,
            parts=("camera_pitch", "camera_roll", "camera_height_m"),
            meaning="pitch (down is positive) and roll of the camera and its height above the ground, as the fit found them "
            "from the people; the same for all of a scene",
        ),
    )  # fmt: skip
    lens: str = field(
        default="",
        metadata=_is(
            kind="text", since=4,
            meaning="distortion of the photo's lens, e.g. `brown k1 k2 p1 p2 k3`; all points are without it; empty = none",
        ),
    )  # fmt: skip
    evidence: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=5, unit="joints", row=True, table=True, training="evidence", label="Evidence", digits=1, worse="low",
            meaning="how many joints the cues show: keypoints by confidence, two at most of the face, dense points a tenth",
        ),
    )  # fmt: skip
    extent_px: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=5, unit="pixels", row=True, table=True, training="extent_px", label="Size in the image", digits=0,
            worse="low", meaning="larger side of the box around the keypoints and dense points that the fit was given",
        ),
    )  # fmt: skip
    trust: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=5, unit="0 to 1", row=True, table=True, listed=("trust",), training="trust", exported="trust",
            label="Trust", worse="low",
            meaning="how far the fit can be relied on, from evidence, plausibility, agreement of the cues and convergence; NaN "
            "without a fit",
        ),
    )  # fmt: skip
    parts_seen: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 5, since=6, row=True, table=True, parts=_of_parts("seen"),
            meaning="1 where left hand, right hand, head, left foot or right foot was fitted to points of its own, 0 where it "
            "was not seen, or no pose fits its points",
        ),
    )  # fmt: skip
    parts_px: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 5, unit="pixels", since=6, row=True, table=True, parts=_of_parts("px"), label="Error of the parts", digits=1,
            worse="high", meaning="mean error of the points of each of these parts; NaN without such a point",
        ),
    )  # fmt: skip
    start_parts_px: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is("n", 5, unit="pixels", since=6, row=True, meaning="the same before the parts were fitted"),
    )
    sd_parts_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 5, unit="metres", since=6, row=True, table=True, parts=_of_parts("sd"),
            meaning="root mean square standard deviation of the points of each part about the fitted body, not calibrated; NaN "
            "where it was not fitted",
        ),
    )  # fmt: skip
    conversion_m: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", since=6, unit="metres", row=True, table=True,
            meaning="of a fit that was converted from another body: mean distance of its surface from that body's",
        ),
    )  # fmt: skip
    expression: np.ndarray = field(
        default_factory=_left_out,
        metadata=_is(
            "n", 10, since=7, unit="standard deviations", row=True,
            meaning="coefficients of the face of a fit of SMPL-X, 0 where the face was not fitted; NaN for Anny",
        ),
    )  # fmt: skip
    vertices: np.ndarray | None = field(
        default=None,
        metadata=_is(
            "n", "vertices", 3, unit="metres, camera axes",
            meaning="13718 posed vertices, of SMPL-X 10475; only on request",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.format_version = FORMAT_VERSION
        for name, fact in ADDED.items():
            if getattr(self, name) is _LEFT_OUT:
                setattr(self, name, fact.absent(len(self.status)))

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool."""
        return self.status == "ok"

    @property
    def parameters(self) -> BodyParameters:
        """The fitted parameters, inside the body's ranges; NaN rows where nobody was fitted."""
        own = (self.root_rotvec, self.transl, self.pose, self.shape)
        return SmplxParameters(*own, self.expression) if is_smplx(self) else BodyParameters(*own)

    @property
    def phenotypes(self) -> np.ndarray:
        """(n, 6) the shape of a fit of Anny; NaN for another body, of whose shape no column is an age."""
        return np.full((len(self), NUM_PHENOTYPES), np.nan, np.float32) if is_smplx(self) else self.shape

    @property
    def start(self) -> BodyParameters:
        """The parameters that the fit started from; words have already overwritten age and gender."""
        return BodyParameters(self.start_root_rotvec, self.start_transl, self.start_pose, self.start_shape)


def is_smplx(fit: SceneFit) -> bool:
    """Whether it is a fit of SMPL-X, by the names of its joints."""
    return tuple(fit.bone_labels.tolist()) == smplx.JOINTS[1:]


def drawable(fit: SceneFit) -> np.ndarray:
    """(m,) rows of the people with finite parameters: those that have a body."""
    people = fit.parameters
    finite = [
        np.isfinite(x).reshape(len(fit), -1).all(1)
        for x in (people.root_rotvec, people.transl, people.pose, people.shape)
    ]
    return np.flatnonzero(np.all(finite, axis=0))


def check_body(where: str, fit: SceneFit, asset_version: str) -> None:
    """Raises ValueError where a fit is not one of this program's body."""
    if fit.asset_version != asset_version:
        raise ValueError(f"{where}: asset_version {fit.asset_version}, but this program's body is {asset_version}")


FACTS: Mapping[str, Fact] = MappingProxyType({f.name: f.metadata["fact"] for f in fields(SceneFit)})
"""What is known of every field, in the order of the declaration."""
FORMAT_VERSION = max(fact.since for fact in FACTS.values())
"""Version of fit files, rows of jobs and training sets. All versions from 1 are read."""
ADDED: Mapping[str, Fact] = MappingProxyType({name: fact for name, fact in FACTS.items() if fact.since > 1})
"""Fields that older files and other solvers leave out."""
ROWS: Mapping[str, Fact] = MappingProxyType({name: fact for name, fact in FACTS.items() if fact.row})
"""Arrays with a row per person that jobs store."""
OPTIONAL = frozenset(ADDED) | {"vertices"}


def columns(name: str, value: Any) -> dict[str, Any]:
    """One person's value of a field under the names of its columns in tables: of `Fact.parts`, or of the field itself."""
    parts = FACTS[name].parts
    # By position: fits of a body of another version come without labels.
    return dict(zip(parts, value, strict=False)) if parts else {name: value}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) + "\n" for line in lines)


def shape_text(shape: Sequence[int | str | None]) -> str:
    """A shape as it is written in tables, nothing for a single value."""
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")" if shape else ""


def markdown(names: Sequence[str] = ()) -> str:
    """The table of the fields of a fit file, of all or of those named. Raises KeyError for a name that is none."""
    rows = []
    for name in names or tuple(FACTS):
        fact = FACTS[name]
        shape = [
            NUM_BONES if size == "bones" else NUM_PHENOTYPES if size == "phenotypes" else size for size in fact.shape
        ]
        kind = {"texts": "text", "text": "text"}.get(fact.kind, fact.unit)
        rows.append([f"`{name}`", shape_text(shape), kind, fact.meaning, str(fact.since)])
    return markdown_table(("field", "shape", "unit", "meaning", "since version"), rows)
