"""Choose the points of feet, face and hands on Anny's resting body by geometry (see `annyfit_jax/people/named_points.py`).

    python -m experiments.builders.build_named_points --output=annyfit_jax/data/named_points.json

Joints of fingers and the root of a hand are heads of bones, but for the knuckles of the long fingers: the rig's heads lie at
the web of the fingers, half a joint's length too far out, so the knuckle is the point of the metacarpal that is as far from
the next joint as that bone is long (Buchholz et al. 1992, as shares of the length of the hand). Everything else lies on the
surface and is looked for on the average adult:

* tips of fingers and toes: the vertex that is farthest along the last bone; the heel: the rearmost vertex of the foot's sole;
* eyes: the border of the visible eyeball, seen from the front: its two corners, and the lids at a third and two thirds; the
  inner corner of an eye is as much farther in as its flesh is wide;
* mouth: the crease between the lips, as wide as it is deep enough; the borders of the red are shares of its width (Farkas:
  8 and 9.3 mm of 50 in adults);
* nose: the deepest point of the profile between the brows and the tip, the tip, the angle below it, and the width of the wings;
* brows: an arc over the eye, as far above the pupil as the eye opening is wide, times .7;
* jaw: the outline of the face in front of the ears from the height of the eyes to the chin, in equal steps.

The left side is looked for; the right side is its mirror image, looked for on the mesh again.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Float
from scipy.spatial import ConvexHull

from annyfit_jax.inputs.point_sets import FACE, LEFT_HAND
from annyfit_jax.people.named_points import FINGER_BONES
from annyfit_jax.records import files
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE
from annyfit_jax.viz import raster
from body_models import anny

_OUTPUT = flags.DEFINE_string("output", "annyfit_jax/data/named_points.json", "File to write.")

_STEP_M = 1e-4
"""Width of a pixel of the view from the front."""
_HALF_WIDTH_M, _UP_M, _DOWN_M = 0.1, 0.16, 0.09
"""Extent of that view about the head of the bone `head`."""
_CREASE_M = 4e-4
"""The mouth is as wide as its crease is so deep, against the lips 2.5 mm above and below."""
_LIP_M = 2.5e-3
_UPPER_RED, _LOWER_RED = 0.16, 0.186
"""Heights of the red of the lips as shares of the width of the mouth."""
_OUTER_LIP = ((0.55, 0.65), (0.2, 1.0), (0.0, 0.9))
"""Upper border of the red: share of half the mouth's width from its middle, share of the red's height."""
_LOWER_LIP = ((0.55, 0.7), (0.25, 0.95), (0.0, 1.0))
_INNER_LIP = 0.9, 0.4
_CARUNCLE = 0.12
_PROXIMAL = {"index": 0.245, "middle": 0.266, "ring": 0.244, "little": 0.204}
"""Length of the first bone of each finger as a share of the hand's length."""
_BROW_HEIGHT = 0.7
_BROW = ((-0.55, 0.75), (-0.25, 1.0), (0.1, 1.08), (0.45, 1.0), (0.75, 0.75))
"""From the inner to the outer end: place along the eye opening from its middle, share of the brow's height."""

_EAR, _EAR_BASE_M = 0.87, 0.015
"""What is farther out than this share of the head's half width is an ear, which begins so much farther in front."""

Point = dict[str, object]


def main(_: list[str]) -> None:
    model = anny.load()
    body = Resting(model)
    points = {name: body.joint(name) for name in LEFT_HAND} | body.feet() | body.face()
    points |= {name.replace("left_", "right_"): body.joint(name, "R") for name in LEFT_HAND}
    table = {
        "how": "chosen by geometry on the average adult by experiments.builders.build_named_points",
        "asset_version": model.labels.asset_version,
        "points": points,
    }
    files.write_json(_OUTPUT.value, table)
    print(f"{len(points)} points")


class Resting:
    """The average adult at rest: x to its left, y back, z up, metres."""

    def __init__(self, model: anny.AnnyModel) -> None:
        vertices, poses = anny.rest(model, jnp.asarray(ADULT_AVERAGE[None], model.dtype))
        self.vertices = np.asarray(vertices[0], np.float64)
        self.heads = np.asarray(poses[0], np.float64)[:, :, 3]
        self.directions = np.asarray(poses[0], np.float64)[:, :, 1]
        self.skin, self.faces = np.asarray(model.skin, np.float64), np.asarray(model.faces)
        self.parents = model.labels.parents
        self.bones = {name: i for i, name in enumerate(model.labels.bones)}

    # ---------------------------------------------------------------------------------------- bones

    def joint(self, name: str, side: str = "L") -> Point:
        """A joint of a hand, or the tip of a finger."""
        part = name.removeprefix("left_")
        if part == "hand_root":
            return {"bones": {f"wrist.{side}": 1.0}}
        finger, _, joint = part.rpartition("_")
        bones = [f"{bone}.{side}" for bone in FINGER_BONES[finger]]
        if joint == "1" and finger in _PROXIMAL:
            return self.knuckle(bones, _PROXIMAL[finger])
        return self.tip(bones[-1]) if joint == "tip" else {"bones": {bones[int(joint) - 1]: 1.0}}

    def knuckle(self, bones: list[str], proximal: float) -> Point:
        """The point of the metacarpal whose distance from the second joint is a share of the hand's length."""
        names = list(self.bones)
        first = self.bones[bones[0]]
        metacarpal = next(n for n in names if n.startswith("metacarpal") and self.is_parent(n, bones[0]))
        start, end, second = (self.heads[self.bones[n]] for n in (metacarpal, names[first], bones[1]))
        wrist, middle = f"wrist.{bones[0][-1]}", self.tip(f"finger3-3.{bones[0][-1]}")
        tip = self.vertices[middle["vertices"][0]]  # type: ignore[index]
        length = proximal * np.linalg.norm(tip - self.heads[self.bones[wrist]])
        shares = np.linspace(0.0, 1.0, 1001)
        along = start + shares[:, None] * (end - start)
        share = float(shares[np.abs(np.linalg.norm(along - second, axis=1) - length).argmin()])
        return {"bones": {metacarpal: round(1.0 - share, 3), bones[0]: round(share, 3)}}

    def is_parent(self, bone: str, child: str) -> bool:
        return self.parents[self.bones[child]] == self.bones[bone]

    def tip(self, bone: str) -> Point:
        """The vertex that is farthest along a bone."""
        row = self.bones[bone]
        own = np.flatnonzero(self.skin[row] > 0.5)
        return _vertex(int(own[((self.vertices[own] - self.heads[row]) @ self.directions[row]).argmax()]))

    def feet(self) -> dict[str, Point]:
        points = {}
        for side, name in (("L", "left"), ("R", "right")):
            points[f"{name}_big_toe"] = self.tip(f"toe1-2.{side}")
            points[f"{name}_small_toe"] = self.tip(f"toe5-3.{side}")
            foot = np.flatnonzero(self.skin[self.bones[f"foot.{side}"]] > 0.5)
            height = self.vertices[foot, 2] - self.vertices[foot, 2].min()
            sole = foot[height < 0.25 * height.max()]
            points[f"{name}_heel"] = _vertex(int(sole[self.vertices[sole, 1].argmax()]))
        return points

    # ---------------------------------------------------------------------------------------- the face

    def face(self) -> dict[str, Point]:
        view = self.front()
        rows: dict[int, Point] = {}
        for sign in (1, -1):
            rows |= self.eye_and_brow(view, sign)
        rows |= self.nose(view) | self.mouth(view) | self.jaw(view)
        pupils = {f"{name}_pupil": self.tip(f"eye.{side}") for side, name in (("L", "left"), ("R", "right"))}
        return {FACE[row]: rows[row] for row in sorted(rows)} | pupils

    def front(self) -> _View:
        """What is seen from the front: the surface under every pixel."""
        middle = self.heads[self.bones["head"]]
        bounds = (-_HALF_WIDTH_M, _HALF_WIDTH_M, middle[2] - _DOWN_M, middle[2] + _UP_M)
        size = (round((bounds[1] - bounds[0]) / _STEP_M), round((bounds[3] - bounds[2]) / _STEP_M))
        eyes = [self.skin[self.bones[f"eye.{side}"]] for side in "LR"]
        return _View(
            raster.rasterise_orthographic(self.vertices[None], self.faces, ("x", "z"), bounds, size),
            self.faces,
            np.sum(eyes, axis=0) > 0.5,
            (bounds[0], bounds[3]),
        )

    def eye_and_brow(self, view: _View, sign: int) -> dict[int, Point]:
        eye = view.of_eyes & (np.sign(view.x) == sign)
        columns = np.flatnonzero(eye.any(0))
        inner, outer = (columns[0], columns[-1]) if sign > 0 else (columns[-1], columns[0])
        first = 42 if sign > 0 else 39
        step = 1 if sign > 0 else -1
        corners = [(np.flatnonzero(eye[:, c]).mean(), c) for c in (inner, outer)]
        flesh = round(_CARUNCLE * abs(outer - inner))
        lids = []
        for share in (1 / 3, 2 / 3):
            c = round(inner + share * (outer - inner))
            lid = np.flatnonzero(eye[:, c])
            lids.append(((lid[0] - 1, c), (lid[-1] + 1, c)))
        skin = lambda place, by=0: view.point(round(place[0]), round(place[1]) + by)  # noqa: E731
        # 42 inner corner, 43 and 44 upper lid outwards, 45 outer corner, 46 and 47 lower lid inwards; the right eye mirrored.
        order = [skin(corners[0], -step * flesh), skin(lids[0][0]), skin(lids[1][0]), skin(corners[1], step), skin(lids[1][1]),
                 skin(lids[0][1])]  # fmt: skip
        places = range(first, first + 6) if sign > 0 else (39, 38, 37, 36, 41, 40)
        points = dict(zip(places, order, strict=True))
        middle, length = (inner + outer) / 2, abs(outer - inner)
        pupil = np.mean([corner[0] for corner in corners])
        brow = (22, 23, 24, 25, 26) if sign > 0 else (21, 20, 19, 18, 17)
        for place, (along, high) in zip(brow, _BROW, strict=True):
            row = pupil - high * _BROW_HEIGHT * length
            points[place] = view.point(round(row), round(middle + step * along * length))
        return points

    def nose(self, view: _View) -> dict[int, Point]:
        middle = view.column(0.0)
        profile = view.raster.depth[:, middle]
        eyes = np.flatnonzero(view.of_eyes.any(1))
        reach = round(0.05 / _STEP_M)
        tip = eyes[-1] + profile[eyes[-1] : eyes[-1] + reach].argmin()
        nasion = eyes[0] - reach // 4 + profile[eyes[0] - reach // 4 : tip].argmax()
        # The angle under the nose is the point that is farthest behind the line from the tip to the lip.
        below = np.arange(tip, tip + round(0.03 / _STEP_M))
        subnasale = below[(profile[below] - 0.35 * (below - tip) * _STEP_M).argmax()]
        points = {27 + k: view.point(round(nasion + (tip - nasion) * k / 3), middle) for k in range(4)}
        wing = self.skin[[self.bones[f"levator06.{side}"] for side in "LR"]].sum(0) > 0.5
        wide = np.abs(self.vertices[wing & (np.abs(self.vertices[:, 2] - view.z[subnasale]) < 0.015), 0])
        half = 0.8 * np.quantile(wide, 0.9)
        for k, share in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0)):
            row = subnasale - round(0.002 * abs(share) / _STEP_M)
            points[31 + k] = view.point(row, view.column(share * half))
        return points

    def mouth(self, view: _View) -> dict[int, Point]:
        depth, middle = view.raster.depth, view.column(0.0)
        lip = round(_LIP_M / _STEP_M)
        jaw = self.heads[self.bones["oris05"]][2]
        guess = int(np.abs(view.z - jaw).argmin())
        search = np.arange(guess - round(0.004 / _STEP_M), guess + round(0.02 / _STEP_M))
        crease = lambda c: depth[search, c] - 0.5 * (depth[search - lip, c] + depth[search + lip, c])  # noqa: E731
        seam = {c: int(search[crease(c).argmax()]) for c in range(middle - 400, middle + 401)}
        half = next(k for k in range(401) if crease(middle + k).max() < _CREASE_M and k > 50)
        width = 2 * half
        points: dict[int, Point] = {}
        at = lambda share, by: view.point(  # noqa: E731
            seam[middle + round(share * half)] + round(by), middle + round(share * half)
        )
        points[48], points[54] = at(-1.0, 0), at(1.0, 0)
        for k, (share, high) in enumerate(_OUTER_LIP):
            points[49 + k], points[53 - k] = (at(s * share, -high * _UPPER_RED * width) for s in (-1, 1))
        for k, (share, low) in enumerate(_LOWER_LIP):
            points[59 - k], points[55 + k] = (at(s * share, low * _LOWER_RED * width) for s in (-1, 1))
        points[60], points[64] = at(-_INNER_LIP[0], 0), at(_INNER_LIP[0], 0)
        off = round(0.0008 / _STEP_M)
        for k, share in enumerate((-_INNER_LIP[1], 0.0, _INNER_LIP[1])):
            points[61 + k], points[67 - k] = at(share, -off), at(share, off)
        return points

    def jaw(self, view: _View) -> dict[int, Point]:
        names = list(self.bones)
        of_head = [i for i, name in enumerate(names) if not name.startswith(("neck", "spine", "clavicle", "shoulder"))]
        on_head = self.skin[of_head].sum(0) > 0.5
        high = self.vertices[:, 2] > self.heads[self.bones["neck02"]][2]
        x, y, z = self.vertices.T
        head = on_head & high & (np.abs(x) < 0.12)
        ears = head & (np.abs(x) > _EAR * np.abs(x[head]).max())
        eye_level = view.z[np.flatnonzero(view.of_eyes.any(1)).mean().astype(int)]
        face = np.flatnonzero(head & (y < y[ears].min() - _EAR_BASE_M) & (z < eye_level + 0.005))
        hull = face[ConvexHull(self.vertices[face][:, [0, 2]]).vertices]
        left = hull[(x[hull] >= -1e-4) & (z[hull] <= eye_level)]
        left = left[np.argsort(-z[left])]
        points = {}
        for sign in (1, -1):
            side = np.array([self._mirrored(v) if sign < 0 else v for v in left])
            steps = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(self.vertices[side][:, [0, 2]], axis=0), axis=1))]
            for k in range(9 if sign > 0 else 8):
                want = steps[-1] * k / 8
                edge = min(int(np.searchsorted(steps, want, "right")) - 1, len(side) - 2)
                share = (want - steps[edge]) / (steps[edge + 1] - steps[edge])
                row = 16 - k if sign > 0 else k
                points[row] = _point([side[edge], side[edge + 1], side[edge]], [1.0 - share, share, 0.0])
        return points

    def _mirrored(self, vertex: int) -> int:
        return int(np.linalg.norm(self.vertices - self.vertices[vertex] * [-1.0, 1.0, 1.0], axis=1).argmin())


class _View:
    """The head seen from the front; rows downwards, columns towards its left."""

    def __init__(
        self, seen: raster.Raster, faces: np.ndarray, eyeball: np.ndarray, corner: tuple[float, float]
    ) -> None:
        self.raster, self.faces = seen, faces
        height, width = seen.face.shape
        self.x = corner[0] + (np.arange(width) + 0.5) * _STEP_M
        self.z = corner[1] - (np.arange(height) + 0.5) * _STEP_M
        self.of_eyes = (seen.face >= 0) & eyeball[faces[seen.face]].all(-1)

    def column(self, x: float) -> int:
        return int(np.abs(self.x - x).argmin())

    def point(self, row: int, column: int) -> Point:
        return _point(self.faces[self.raster.face[row, column]], self.raster.barycentric[row, column])


def _vertex(vertex: int) -> Point:
    return _point([vertex] * 3, [1.0, 0.0, 0.0])


def _point(vertices: np.ndarray | list, weights: Float[np.ndarray, "3"] | list) -> Point:
    return {"vertices": [int(v) for v in vertices], "weights": [round(float(w), 4) for w in _exact(weights)]}


def _exact(weights: np.ndarray | list) -> np.ndarray:
    """Weights that still sum to one after they are rounded."""
    w = np.round(np.asarray(weights, np.float64), 4)
    w[w.argmax()] += 1.0 - w.sum()
    return w


if __name__ == "__main__":
    app.run(main)
