"""What decoding photos costs beside the experts: processor seconds a photo, in one process.

    python -m experiments.studies.decode_cost --photos=../shared/data/real --side=4000 --units=2

Every expert of the default set looks at the same photos in units of as many; the first unit, which compiles, is not counted.
The seconds of an expert contain reading and decoding, which `annyfit_jax.inputs.photos.read_photo` alone takes as said. With
`--side` the photos are enlarged first, to what a camera writes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from annyfit_jax.engine.running import run
from annyfit_jax.inputs.photos import list_photos, read_photo
from annyfit_jax.records import files
from annyfit_jax.store.locations import place
from experts import registry
from experts.pipeline import Collection, Stages

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("photos", None, "Folder of some photos.", required=True)
    flags.DEFINE_integer("side", 0, "Pixels of the longer side; 0 leaves the photos as they are.", lower_bound=0)
    flags.DEFINE_integer("units", 3, "Units of all photos, the first one not counted.", lower_bound=2)
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        figures = measure(Path(folder))
    print("| part | processor ms a photo |", "| --- | --- |", sep="\n")
    for name, milliseconds in figures["ms"].items():
        print(f"| {name} | {milliseconds} |")
    print(f"{figures['megapixels']} megapixels; decoding is {figures['share_of_decoding']:.1%} of the experts' time")
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps(figures, indent=1) + "\n")


def measure(folder: Path) -> dict:
    """Milliseconds by part, size of a photo, share of decoding in all experts together."""
    originals = list_photos(FLAGS.photos)
    for unit in range(FLAGS.units):
        for path in originals:
            _copy(path, folder / "photos" / f"{unit}_{path.stem}.jpg")
    collection = Collection.of_folder(str(folder / "photos"))
    units = [range(k, k + len(originals)) for k in range(0, len(collection), len(originals))]
    started = time.process_time()
    pixels = [read_photo(collection.paths[index]).size / 3e6 for index in units[0]]
    spent = {"decoding once": [(time.process_time() - started) / len(originals)]}
    stages, looking = Stages(place(folder / "stages"), collection, registry.build("default", [])), 0
    for stage in stages.stages(len(units), units.__getitem__):
        times = [time.process_time()]
        run([dataclasses.replace(stage, commit=lambda unit, _, times=times: times.append(time.process_time()))])
        if len(times) > 1:  # the stage that decodes does nothing in one process
            spent[stage.name] = (np.diff(times)[1:] / len(originals)).tolist()
            looking += bool(stage.given)
    ms = {name: round(1e3 * float(np.mean(values)), 1) for name, values in spent.items()}
    whole = sum(value for name, value in ms.items() if name != "decoding once")
    return {
        "photos": len(originals), "megapixels": round(float(np.mean(pixels)), 2), "ms": ms, "experts_that_decode": looking,
        "share_of_decoding": looking * ms["decoding once"] / whole,
    }  # fmt: skip


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(read_photo(path))
    scale = FLAGS.side / max(photo.size) if FLAGS.side else 1.0
    photo.resize([round(scale * side) for side in photo.size]).save(target, quality=92)


if __name__ == "__main__":
    define_flags()
    app.run(main)
