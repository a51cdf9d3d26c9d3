"""Photos, experts and fits as one streaming job: when did each stage begin and end?

    python -m experiments.studies.photo_stream --photos=../shared/data/real --count=300 --output=out/stream

Makes photos out of a few by crops, scales and mirrors, gives them to `annyfit fit --engine=ray`, and reads from the files that
the stages left when each unit of photos was done by each of them. Prints a table, and whether the first people were fitted
before the last photo was looked at by the detector. Exit code 1 where not, or where a photo has no row."""

from __future__ import annotations

import json
import operator
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags
from PIL import Image

from annyfit_jax.inputs.photos import list_photos, read_photo
from annyfit_jax.jobs import job_status
from annyfit_jax.records import files
from annyfit_jax.store.locations import place
from experiments.studies.photo_copies import window

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("photos", None, "Folder of some photos.", required=True)
    flags.DEFINE_integer("count", 300, "How many are made of them.", lower_bound=1)
    flags.DEFINE_string("output", None, "Folder of the photos and the job.", required=True)
    flags.DEFINE_integer("scenes_per_shard", 10, "Photos of a unit.", lower_bound=1)
    flags.DEFINE_multi_string("fit", [], "More arguments of annyfit fit.")
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    folder = Path(FLAGS.output)
    made = make_photos(list_photos(FLAGS.photos), FLAGS.count, folder / "photos")
    began = time.time()
    subprocess.run(
        [
            sys.executable, "-m", "experiments.fit", f"--input={folder / 'photos'}", f"--output={folder / 'job'}",
            f"--scenes_per_shard={FLAGS.scenes_per_shard}", "--engine=ray", "--address=local", *FLAGS.fit,
        ],
        check=True,
    )  # fmt: skip
    seconds = time.time() - began
    stages = finished(folder / "job")
    state = job_status.status(str(folder / "job"))
    figures: dict[str, Any] = {
        "photos": made, "scenes": state["scenes"]["done"], "people": state["people"]["done"], "seconds": round(seconds, 1),
        "first_fit_before_last_detection": min(stages["fit"]) < max(stages["detector"]),
        "units_fitted_before_last_detection": sum(at < max(stages["detector"]) for at in stages["fit"]),
        "median_s_from_detection_to_fit": round(statistics.median(map(operator.sub, stages["fit"], stages["detector"])), 1),
        "stages": {
            name: {"units": len(times), "first_s": round(min(times) - began, 1), "last_s": round(max(times) - began, 1)}
            for name, times in stages.items()
        },
    }  # fmt: skip
    print("| stage | units | first done, s | last done, s |", "| --- | --- | --- | --- |", sep="\n")
    for name, row in figures["stages"].items():
        print(f"| {name} | {row['units']} | {row['first_s']} | {row['last_s']} |")
    print({name: value for name, value in figures.items() if name != "stages"})
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps(figures, indent=1) + "\n")
    if not figures["first_fit_before_last_detection"] or figures["scenes"] != made:
        raise SystemExit(1)


def make_photos(originals: list[Path], count: int, folder: Path, seed: int = 0) -> int:
    """Writes crops of at least 70 % of a side, scaled to 60 to 120 % and every second one mirrored; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for index in range(count):
        path = originals[index % len(originals)]
        photo = Image.fromarray(read_photo(path))
        size = [int(rng.uniform(0.7, 1.0) * side) for side in photo.size]
        left, top = (rng.randint(0, side - part) for side, part in zip(photo.size, size, strict=True))
        box = (left, top, left + size[0], top + size[1])
        part, _ = window(photo, [], box, rng.uniform(0.6, 1.2), mirror=index % 2 == 1)
        part.save(folder / f"{index:04d}_{path.stem}.jpg", quality=92)
    return count


def finished(job: Path) -> dict[str, list[float]]:
    """Stage -> when its units were done, in the order of time, seconds since the epoch.

    Of experts by the times of their files, of the fit as its commit records say.
    """
    times = {
        stage.name.partition("-")[0]: [file.stat().st_mtime for file in stage.glob("*.npz")]
        for stage in sorted((job / "cues" / "stages").iterdir())
        if stage.is_dir()
    }
    done = place(job / "done")
    records = [(done / name).read_json() for name in done.files()]
    times["fit"] = [record["finished"] for record in records if isinstance(record, dict)]
    return {name: sorted(values) for name, values in times.items() if values}


if __name__ == "__main__":
    define_flags()
    app.run(main)
