"""Pack any input into a cue dataset: ArrayRecord shards that TFDS, Grain and `experiments.fit` read.

    python -m experiments.pack --input=annotations.json --images=photos --output=dataset
    python -m experiments.pack --input=ROOT --output=dataset --with_images --process_index=3 --process_count=8

Run it again to resume: finished shards are kept. Scenes that cannot be read are listed with the reason in
`set_aside.jsonl`. Several processes (on one machine or many with a common file system) share the shards; whoever finds
all of them finished writes the metadata. --provenance names a JSON file `{cue: {"expert", "version", "licence"}}`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from PIL import Image, ImageOps

from annyfit_jax.inputs import SceneSource, cue_dataset
from annyfit_jax.inputs.coco_annotations import read_json
from annyfit_jax.people.scene import Scene, SceneError
from experiments import input_flags

_OUTPUT = flags.DEFINE_string("output", None, "Folder of the dataset.")
_PER_SHARD = flags.DEFINE_integer(
    "scenes_per_shard", cue_dataset.DEFAULT_SCENES_PER_SHARD, "Scenes per shard.", lower_bound=1
)
_WITH_IMAGES = flags.DEFINE_bool("with_images", False, "Also store the photos as JPEG.")
_PROVENANCE = flags.DEFINE_string(
    "provenance", None, "JSON file: which expert, version and licence each cue comes from."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many scenes.", lower_bound=1)
_PROCESS_INDEX = flags.DEFINE_integer("process_index", 0, "Which of the processes this is, from 0.", lower_bound=0)
_PROCESS_COUNT = flags.DEFINE_integer("process_count", 1, "Processes that share the work.", lower_bound=1)

_ORIENTATION = 0x0112
_JPEG_QUALITY = 95


def main(_: list[str]) -> None:
    if not _OUTPUT.value:
        raise app.UsageError("--output is missing")
    try:
        state = run()
    except (SceneError, cue_dataset.DatasetError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    report(state, _OUTPUT.value)


def run() -> cue_dataset.Progress:
    """The program, after flag parsing."""
    source = input_flags.open_from_flags(with_masks=True, with_depth_map=True)
    total = min(len(source), _LIMIT.value or len(source))
    cues = read_json(_PROVENANCE.value) if _PROVENANCE.value else {}
    if not isinstance(cues, dict):
        raise SceneError(f'{_PROVENANCE.value}: expected {{cue: {{"expert": ..., "version": ..., "licence": ...}}}}')
    options = input_flags.input_options()
    described = {"input": Path(source.location).name, "kind": source.kind, "options": options, "provenance": cues}
    names = hashlib.sha256(json.dumps(source.names[:total]).encode()).hexdigest()
    plan = cue_dataset.Plan(total, {**described, "names": names, "images": _WITH_IMAGES.value}, _PER_SHARD.value)
    logging.info("%s: %d scenes (%s), %d shards", source.location, total, source.kind, plan.num_shards)
    # Records of a dataset that is packed again keep saying where they first came from.
    origin = {} if source.kind == "cues" else {"reader": source.kind, "input": Path(source.location).name}
    started = time.monotonic()
    return cue_dataset.write(
        _OUTPUT.value or "",
        plan,
        functools.partial(read_scenes, source),
        process_index=_PROCESS_INDEX.value,
        process_count=_PROCESS_COUNT.value,
        photo=functools.partial(photo_of, source) if _WITH_IMAGES.value else None,
        provenance=origin | ({"cues": cues} if cues else {}),
        on_shard=lambda shard: logging.info("shard %d written, %.0f s", shard, time.monotonic() - started),
    )


def report(state: cue_dataset.Progress, output: str) -> None:
    """Prints what is there, and what is left to other processes."""
    print(
        f"{state.shards_done} of {state.num_shards} shards, {state.scenes} scenes, {state.people} people, "
        f"{state.set_aside} scenes set aside: {output}"
    )
    if state.shards_done == state.num_shards and not state.finished:
        logging.error("no scene could be packed; the reasons are in %s", Path(output) / "set_aside.jsonl")
        raise SystemExit(2)
    if not state.finished:
        print("not finished: other processes have shards left")


def read_scenes(source: SceneSource, indices: range) -> Iterator[Scene | cue_dataset.SetAside]:
    """The scenes of a range, each read when its turn comes; those that cannot be read with the reason."""
    for index in indices:
        try:
            yield source.load(index)
        except SceneError as error:
            yield cue_dataset.SetAside(source.names[index], str(error))


def photo_of(source: SceneSource, scene: Scene) -> bytes:
    """The scene's photo as JPEG, upright; empty where there is none. Raises SceneError on a broken one."""
    stored: Any = getattr(source, "photo", None)
    if stored is not None and (packed := stored(source.names.index(scene.name))):
        return packed
    return jpeg(scene.image_path) if scene.image_path and Path(scene.image_path).is_file() else b""


def jpeg(path: str) -> bytes:
    """A photo as JPEG bytes: a JPEG file as it is, unless its EXIF data turn it; others encoded. Raises SceneError."""
    try:
        with Image.open(path) as photo:
            photo.load()
            if photo.format == "JPEG" and photo.getexif().get(_ORIENTATION, 1) == 1:
                return Path(path).read_bytes()
            stream = io.BytesIO()
            ImageOps.exif_transpose(photo).convert("RGB").save(stream, "JPEG", quality=_JPEG_QUALITY)
            return stream.getvalue()
    except Exception as error:  # image decoders fail in many ways
        raise SceneError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error


if __name__ == "__main__":
    app.run(main)
