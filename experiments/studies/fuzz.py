"""Attacks on everything that reads what strangers wrote: random cases per area, counted by what came of them.

    python -m experiments.studies.fuzz --output=experiments/results/fuzz.md
    python -m experiments.studies.fuzz --areas=coco --first=4711 --cases=1     # one case again, with its traceback

A case is made from the seed, the area and its number alone. What may come of it: it is accepted, and then what was read keeps
the promise of the reader; or it is refused by the documented error. A crash is any other exception, a hang takes more than
`--limit_s` seconds of processor time, and a silent error is a result that breaks the promise. Exit code 1 where there is any.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

FLAGS = flags.FLAGS
LIMIT_S = 5.0

Case = Callable[[random.Random], bool]
"""Makes a case and tries it: True where it was accepted, False where the documented error refused it. Raises Silent where the
result breaks a promise."""


class Silent(Exception):
    """Something wrong passed."""


class Hang(BaseException):
    """A case took too long. No Exception, so that no reader takes it for an error of its file."""


@dataclasses.dataclass(frozen=True)
class Area:
    """One kind of reader."""

    title: str
    cases: int
    """Of a whole run."""
    open: Callable[[Path], Case]
    """Gets a folder of its own for files."""


# ------------------------------------------------------------------------------------------------ what strangers write

NUMBERS = (
    0, 1, -1, 2, 0.5, -0.5, 1.5, 1e30, -1e30, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, -(2**63), 10**400, -(10**400),
    math.nan, math.inf, -math.inf, 1e7, 65536, 1e-9,
)  # fmt: skip
TEXTS = (
    "", " ", "a", "adult", "baby", "../../x", "/etc/passwd", "x" * 300, "\0", "\ud800", "\u202e", "{" * 500, "1e400", "NaN",
    "<script>", "a\nb", "²", "９", "-1", "0x10", "CON", ".", "..", "~",
)  # fmt: skip
OTHERS = (None, True, False, [], {}, [[]], [{}], {"": ""}, [None], [0] * 51, [1e308] * 51, [[0] * 6], [["a"] * 6])


def hostile_value(rng: random.Random) -> Any:
    """A JSON value of any type."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(NUMBERS)
    if kind < 0.75:
        return rng.choice(TEXTS)
    return copy.deepcopy(rng.choice(OTHERS))


def hostile_json(rng: random.Random, value: Any, changes: int) -> Any:
    """JSON data with some values replaced, removed or renamed, at any depth."""
    value = copy.deepcopy(value)
    for _ in range(changes):
        node: Any = value
        parent: Any = None
        key: Any = None
        while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.85):
            parent = node
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            node = node[key]
        if parent is None:
            return hostile_value(rng)
        how = rng.random()
        if how < 0.8:
            parent[key] = hostile_value(rng)
        elif how < 0.9:
            del parent[key]
        elif isinstance(parent, dict):
            parent[rng.choice(TEXTS)] = parent.pop(key)
        else:
            parent.insert(0, hostile_value(rng))
    return value


def hostile_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes that were flipped, cut, doubled, overwritten or moved."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, how = rng.randrange(len(data) + 1), rng.randrange(6)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + rng.choice((1, 2, 4, 8))] = rng.choice((b"\0", b"\xff", b"\x7f")) * rng.choice((1, 2, 4, 8))
        elif how == 2:
            del data[at:]
        elif how == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif how == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 32))
        else:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.randrange(1, 64)]
    return bytes(data)


def hostile_text(rng: random.Random, text: str) -> str:
    """A text with pieces replaced, doubled, removed or filled in."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        middle = rng.choice(
            (rng.choice(TEXTS), text[at:end] * 2, "", str(rng.choice(NUMBERS[:15])), chr(rng.randrange(0x3000)))
        )
        text = text[:at] + middle + text[end:]
    return text[:4000]


# ------------------------------------------------------------------------------------------------ areas


def names(_: Path) -> Case:
    """Names of scenes as file names: safe, short, and different for different names."""
    from annyfit_jax.records.file_names import file_stem

    known: dict[str, str] = {}

    def case(rng: random.Random) -> bool:
        name = hostile_text(rng, rng.choice(("photo 17", "a/b/c", "Straße", "x" * 240, "..", "e\u0301")))
        stem = file_stem(name)
        if (
            not 0 < len(stem.encode()) <= 230
            or set(stem) & set('/\\:*?"<>|\0\n\r')
            or stem[0] in ". "
            or stem[-1] in ". "
        ):
            raise Silent(f"{name!r} -> {stem!r}")
        if known.setdefault(stem, name) != name:
            raise Silent(f"{name!r} and {known[stem]!r} -> {stem!r}")
        if len(known) > 100_000:
            known.clear()
        return stem == name

    return case


def pauses(_: Path) -> Case:
    """`Retry-After` of a server."""
    from experts.adapters.http_client import _retry_after

    def case(rng: random.Random) -> bool:
        value = _retry_after(hostile_text(rng, rng.choice(("17", "Fri, 31 Dec 2099 23:59:59 GMT", "1.5", "99999999"))))
        if value is not None and not 0 <= value < 1e12:
            raise Silent(f"a pause of {value}")
        return value is not None

    return case


def answers(_: Path) -> Case:
    """Answers of a chat server, from its JSON to the probabilities of words."""
    from experts.adapters.http_client import ServerError
    from experts.adapters.http_vlm import _probabilities, _reply_of
    from experts.attributes import DEFAULT_ATTRIBUTES

    text = '{"age": "child", "gender": "female"}'
    others = [{"token": "child", "logprob": -0.1}, {"token": "te", "logprob": -3.0}]
    content = [{"token": '{"age": "', "logprob": 0.0}, {"token": "child", "logprob": -0.1, "top_logprobs": others}]
    good = {"choices": [{"message": {"content": text}, "logprobs": {"content": content}}], "usage": {"total_tokens": 9}}

    def case(rng: random.Random) -> bool:
        answer = hostile_json(rng, good, rng.choice((1, 1, 2, 3)))
        if rng.random() < 0.3:
            answer = copy.deepcopy(good)
            answer["choices"][0]["message"]["content"] = hostile_text(rng, text)
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or not answer["choices"]:
            return False  # the client asks again
        try:
            reply = _reply_of(answer)
        except ServerError:
            return False
        json.dumps(reply, allow_nan=False).encode()
        reply["text"].encode()
        for attribute in DEFAULT_ATTRIBUTES:
            shares = _probabilities([reply], attribute)
            if not ((shares >= 0).all() and shares.sum() <= 1 + 1e-9):
                raise Silent(f"probabilities {shares}")
        return True

    return case


_K17 = [v for j in range(17) for v in (5.0 + 3 * j, 4.0 + 2 * j, 2)]


def coco(_: Path) -> Case:
    """Images and annotations of a COCO file; the person beside the hostile one must stay."""
    from annyfit_jax.inputs import coco_annotations as reader
    from annyfit_jax.inputs.scene_source import InputOptions
    from annyfit_jax.inputs.validate import validate_scene
    from annyfit_jax.people.scene import SceneError

    person = {
        "id": 2, "keypoints": _K17, "bbox": [1, 2, 30, 40], "depth_layer": 1, "age": "child", "gender": "female",
        "segmentation": [[1, 1, 30, 1, 30, 30]], "hand_label": {"age": 1, "gender": 0, "depth_id": 2}, "iscrowd": 0,
        "attributes": {"age": 0.5}, "num_keypoints": 17, "keypoints_by_eye": False,
    }  # fmt: skip
    image = {"file_name": "a.jpg", "width": 64, "height": 48, "camera": {"fx": 60, "fy": 60, "cx": 32, "cy": 24}}
    options = InputOptions(with_masks=True, hand_labels=True, hand_depth=True)

    def case(rng: random.Random) -> bool:
        odd_image = rng.random() < 0.25
        shown = hostile_json(rng, image, 1) if odd_image else image
        odd = person if odd_image else hostile_json(rng, person, rng.choice((1, 1, 2, 4)))
        if not isinstance(shown, dict) or not isinstance(shown.get("file_name"), str) or not isinstance(odd, dict):
            return False  # refused when the file is opened
        people = [{"id": 1, "keypoints": _K17}, {**odd, "id": odd.get("id", 1)}]
        index = reader.AnnotationIndex("c.json", [shown], [people], confidences=False)
        try:
            scene = reader._SceneReader(index, 0, "a", {}, options).scene()
            validate_scene(scene, "c.json")
        except SceneError:
            if not odd_image:
                raise Silent("one person's annotation took the scene away") from None
            return False
        if "1" not in scene.person_ids:
            raise Silent("the person beside was lost")
        return len(scene) == 2

    return case


def segmentations(_: Path) -> Case:
    """Polygons and run lengths."""
    from annyfit_jax.inputs.masks import decode_segmentation
    from annyfit_jax.people.scene import SceneError

    shapes = (
        [[1, 1, 30, 1, 30, 30]], {"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]},
        {"size": [48, 64], "counts": "d3b1X[2"},
        [[0.5, 0.5, 60, 3, 40, 40, 2, 30], [5, 5, 9, 9, 5, 9]],
    )  # fmt: skip

    def case(rng: random.Random) -> bool:
        made = hostile_json(rng, rng.choice(shapes), rng.choice((0, 1, 1, 2)))
        if isinstance(made, dict) and isinstance(made.get("counts"), str):
            made["counts"] = hostile_text(rng, made["counts"])
        try:
            mask = decode_segmentation(made, (64, 48), "here")
        except SceneError:
            return False
        if mask.shape != (48, 64) or mask.dtype != bool:
            raise Silent(f"a mask of {mask.dtype} {mask.shape}")
        return True

    return case


def _scene() -> Any:
    from annyfit_jax.people.scene import BodyParameters, Scene

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 48, (2, 17, 2)), np.ones((2, 17, 1))], 2)
    start = BodyParameters(np.zeros((2, 3)), np.tile([0, 0, 4.0], (2, 1)), np.zeros((2, 162, 3)), np.full((2, 6), 0.5))
    return Scene(
        "a", (64, 48), np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), points, np.zeros((2, 138, 3)),
        np.array([3.0, np.nan]), np.array([1, -1]), np.array([0.5, -1]), np.array([-1, 1.0]), start, person_ids=["1", "2"],
        masks=rng.random((2, 48, 64)) < 0.5, depth_map=rng.uniform(1, 9, (48, 64)), image_path="a.jpg", notes=["note"],
    )  # fmt: skip


def cue_records(_: Path) -> Case:
    """Records of a cue dataset."""
    from annyfit_jax.inputs import cue_schema
    from annyfit_jax.inputs.scene_source import SceneSource
    from annyfit_jax.people.scene import SceneError

    good = cue_schema.serialize(cue_schema.encode(_scene(), b"\xff\xd8jpeg"))

    def case(rng: random.Random) -> bool:
        content = hostile_bytes(rng, good)
        try:
            scene = SceneSource("cues", ("a",), lambda _: cue_schema.decode(content, "record"), "here").load(0)
        except SceneError:
            return False
        if len(scene.person_ids) != len(scene):
            raise Silent("people without ids")
        return True

    return case


def scene_files(folder: Path) -> Case:
    """Scene `.npz` files: their bytes, and entries of other shapes and values."""
    from annyfit_jax.inputs.scene_npz import read_scene_npz
    from annyfit_jax.inputs.scene_source import SceneSource
    from annyfit_jax.people.scene import SceneError

    scene, path = _scene(), folder / "a.npz"
    entries = {
        "image_size": np.array([64, 48]), "keypoints_2d": scene.keypoints, "K": scene.intrinsics,
        "median_depth": scene.median_depth, "depth_layer": scene.depth_layer, "vlm_age": scene.age,
        "person_ids": np.array(["1", "2"]), "image_path": np.array("a.jpg"), "boxes": np.zeros((2, 4)),
    }  # fmt: skip

    def packed(arrays: dict[str, np.ndarray]) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
        return stream.getvalue()

    good = packed(entries)

    def case(rng: random.Random) -> bool:
        if rng.random() < 0.6:
            path.write_bytes(hostile_bytes(rng, good))
        else:
            name, how = rng.choice(list(entries)), rng.randrange(4)
            odd = np.array(entries[name])
            if how == 0:
                odd = np.array([rng.choice(NUMBERS[:16])] * rng.randrange(4), np.float64)
            elif how == 1 and odd.dtype.kind in "fi" and odd.size:
                odd = odd.astype(np.float64)
                odd.flat[rng.randrange(odd.size)] = float(rng.choice(NUMBERS[:12] + NUMBERS[18:]))
            elif how == 2:
                odd = odd[..., None]
            else:
                odd = odd.astype("U8") if odd.dtype.kind != "U" else odd.astype("S8")
            path.write_bytes(packed({**entries, name: odd}))
        try:
            read = SceneSource("npz", ("a",), lambda _: read_scene_npz(str(path)), "here").load(0)
        except SceneError:
            return False
        if np.any(read.depth_layer != np.floor(read.depth_layer)):
            raise Silent("a fractional layer")
        return True

    return case


def limits(_: Path) -> Case:
    """Cues that no photo can give: what is left of them fits single precision."""
    from annyfit_jax.inputs.cue_limits import without_impossible_cues
    from annyfit_jax.inputs.validate import validate_scene
    from annyfit_jax.people.scene import SceneError

    numbers = [float(v) for v in NUMBERS if not isinstance(v, int) or abs(v) < 2**65]

    def case(rng: random.Random) -> bool:
        scene = _scene()
        for _ in range(rng.choice((1, 2, 5))):
            start = scene.start
            cues = (scene.keypoints, scene.dense_keypoints, scene.median_depth, start.transl, start.pose, start.shape)
            array = rng.choice(cues)
            array.flat[rng.randrange(array.size)] = rng.choice(numbers)
        try:
            validate_scene(scene, "here")
        except SceneError:
            return False
        after, _notes = without_impossible_cues(scene)
        assert after.start is not None
        counted = [np.where(p[..., 2:] > 0, p, 0) for p in (after.keypoints, after.dense_keypoints)]
        for array in (*counted, after.median_depth, after.start.transl, after.start.pose, after.start.shape):
            with np.errstate(over="ignore"):
                if not np.isfinite(np.float32(array[~np.isnan(array)]) ** 2).all():
                    raise Silent(f"{np.nanmax(np.abs(array))} is left")
        return True

    return case


def pictures(_: Path) -> Case:
    """Photos of every format."""
    from PIL import Image

    from annyfit_jax.inputs.photos import MAX_PIXELS, focal_35mm, read_photo
    from annyfit_jax.people.scene import SceneError

    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    good = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        good.append(stream.getvalue())
    good.append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")

    def case(rng: random.Random) -> bool:
        content = hostile_bytes(rng, rng.choice(good))
        focal_35mm(content)
        try:
            photo = read_photo(content)
        except SceneError:
            return False
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size > 3 * MAX_PIXELS:
            raise Silent(f"a photo of {photo.dtype} {photo.shape}")
        return True

    return case


def checkpoints(folder: Path) -> Case:
    """PyTorch files, read without PyTorch."""
    from annyfit_jax.records.torch_files import write_state_dict

    path = folder / "a.pt"
    write_state_dict(path, {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(2, np.float16)})
    return _state_dicts(path, path.read_bytes())


def safetensors(folder: Path) -> Case:
    """Safetensors files."""
    header = {
        "w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [48, 52]},
    }
    text = json.dumps(header).encode()
    good = len(text).to_bytes(8, "little") + text + bytes(range(52))
    return _state_dicts(folder / "a.safetensors", good)


def _state_dicts(path: Path, good: bytes) -> Case:
    from annyfit_jax.records.torch_files import CheckpointError, read_state_dict

    def case(rng: random.Random) -> bool:
        path.write_bytes(hostile_bytes(rng, good))
        try:
            read = read_state_dict(path)
        except CheckpointError:
            return False
        if not all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in read.items()):
            raise Silent("something else than arrays by name")
        if sum(array.nbytes for array in read.values()) > 64 * len(good):
            raise Silent("much more than the file holds")
        return True

    return case


def settings(_: Path) -> Case:
    """`--set` of a config."""
    from annyfit_jax.fit.config import FitConfig, Stage
    from annyfit_jax.records.settings import apply_overrides, config_hash, table

    config = FitConfig((Stage("pose", 100, table(pose=0.01), table(keypoints=1.0, words=2.0)),))
    paths = (
        "stages.pose.lr.pose=0.002", "stages.0.weights.words=50", "sigma_px=80", "map.depth_order=never", "solver=lm",
        "frozen_bones=('a',)", "map.pose_sd.spine=0.1", "lm.rounds=3",
    )  # fmt: skip

    def case(rng: random.Random) -> bool:
        try:
            changed = apply_overrides(config, [hostile_text(rng, rng.choice(paths))])
        except ValueError:
            return False
        config_hash(changed)
        if not all(math.isfinite(weight) for stage in changed.stages for weight in stage.weights.values()):
            raise Silent("a weight that is not finite")
        return True

    return case


AREAS = {
    "names": Area("names of scenes as file names", 350_000, names),
    "pauses": Area("Retry-After of a server", 250_000, pauses),
    "answers": Area("answers of a chat server", 120_000, answers),
    "settings": Area("--set of a config", 80_000, settings),
    "segmentations": Area("polygons and run lengths", 80_000, segmentations),
    "coco": Area("COCO images and annotations", 50_000, coco),
    "limits": Area("cues beyond any photo", 30_000, limits),
    "cue_records": Area("records of cue datasets", 30_000, cue_records),
    "pictures": Area("photos", 30_000, pictures),
    "checkpoints": Area("PyTorch files", 20_000, checkpoints),
    "safetensors": Area("safetensors files", 20_000, safetensors),
    "scene_files": Area("scene .npz files", 15_000, scene_files),
}


# ------------------------------------------------------------------------------------------------ counting


@dataclasses.dataclass
class Tally:
    """What came of the cases of an area."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    """accepted, refused, crashes, hangs, silent."""
    slowest_s: float = 0.0
    """Processor time of one case."""
    grown_mb: int = 0
    """By how much the process's peak of memory rose."""
    seconds: float = 0.0
    examples: list[str] = dataclasses.field(default_factory=list)
    """The first few bad cases: how to repeat each, and what came."""

    @property
    def bad(self) -> int:
        """Cases that should not have ended so."""
        return sum(self.counts[kind] for kind in ("crashes", "hangs", "silent"))


def attack(name: str, area: Area, cases: int, seed: int = 0, first: int = 0, limit_s: float = LIMIT_S) -> Tally:
    """Cases `first` and following of an area."""
    tally, started, peak = Tally(), time.monotonic(), _peak_mb()

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = area.open(Path(folder))
            for number in range(first, first + cases):
                rng = random.Random(f"{seed}/{name}/{number}")
                begun, error = time.process_time(), None
                try:
                    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)  # processor time: a busy machine is no hang
                    try:
                        kind = "accepted" if case(rng) else "refused"
                    finally:
                        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                except Hang:
                    kind, error = "hangs", f"more than {limit_s:g} s"
                except Silent as caught:
                    kind, error = "silent", str(caught)
                except Exception as caught:
                    kind, error = "crashes", f"{type(caught).__name__}: {caught}"
                    logging.debug("%s", traceback.format_exc())
                tally.counts[kind] += 1
                tally.slowest_s = max(tally.slowest_s, time.process_time() - begun)
                if error is not None and len(tally.examples) < 5:
                    tally.examples.append(
                        f"--areas={name} --seed={seed} --first={number} --cases=1: {kind}: {error:.300}"
                    )
    finally:
        signal.signal(signal.SIGVTALRM, before)
    tally.seconds, tally.grown_mb = time.monotonic() - started, _peak_mb() - peak
    return tally


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def table(tallies: dict[str, Tally], seed: int) -> str:
    """Markdown: a row for each area."""
    lines = [
        f"Random attacks, seed {seed}: `python -m experiments.studies.fuzz --seed={seed}`.",
        "",
        "| area | cases | accepted | refused | crashes | hangs | silent errors | slowest case, ms | memory grown, MB | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, tally in [*tallies.items(), ("all", _sum(tallies))]:
        counts = [tally.counts[kind] for kind in ("accepted", "refused", "crashes", "hangs", "silent")]
        cells = [AREAS[name].title if name in AREAS else name, sum(counts), *counts, f"{1000 * tally.slowest_s:.0f}"]
        lines.append("| " + " | ".join(map(str, [*cells, tally.grown_mb, f"{tally.seconds:.0f}"])) + " |")
    examples = [f"- {example}" for tally in tallies.values() for example in tally.examples]
    return "\n".join([*lines, *([""] if examples else []), *examples]) + "\n"


def _sum(tallies: dict[str, Tally]) -> Tally:
    total = Tally()
    for tally in tallies.values():
        total.counts += tally.counts
        total.slowest_s = max(total.slowest_s, tally.slowest_s)
        total.grown_mb += tally.grown_mb
        total.seconds += tally.seconds
    return total


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_list("areas", list(AREAS), "Some of " + ", ".join(AREAS) + ".")
    flags.DEFINE_integer("seed", 0, "Of all cases.")
    flags.DEFINE_integer("cases", None, "Of each area. Default: a million over all areas.", lower_bound=1)
    flags.DEFINE_integer("first", 0, "Number of the first case.", lower_bound=0)
    flags.DEFINE_float("limit_s", LIMIT_S, "Seconds of processor time after which a case hangs.", lower_bound=0.1)
    flags.DEFINE_string("output", None, "Also write the table here.")


def main(_: list[str]) -> None:
    unknown = [name for name in FLAGS.areas if name not in AREAS]
    if unknown:
        raise app.UsageError(f"--areas: expected some of {', '.join(AREAS)}, got {unknown[0]}")
    logging.set_verbosity(logging.DEBUG if FLAGS.cases == 1 else logging.ERROR)
    tallies = {}
    for name in FLAGS.areas:
        cases = FLAGS.cases or AREAS[name].cases
        tallies[name] = attack(name, AREAS[name], cases, FLAGS.seed, FLAGS.first, FLAGS.limit_s)
        print(f"{name}: {dict(tallies[name].counts)}, {tallies[name].seconds:.0f} s", flush=True)
    found = table(tallies, FLAGS.seed)
    print(found)
    if FLAGS.output:
        Path(FLAGS.output).write_text("# What came of a million attacks\n\n" + found)
    if _sum(tallies).bad:
        raise SystemExit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
