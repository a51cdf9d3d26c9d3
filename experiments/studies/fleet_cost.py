"""What a job of many images costs besides the accelerators: a calculation from what a small job was measured to need.

    python -m experiments.studies.fleet_cost --measured=experiments/results/fleet_10000.json

Takes requests to the object store of a unit from a run of `experiments.studies.fleet`, the driver's time of a unit from its
`--jobs=driver`, and what the flags say. Nothing here was run on an accelerator: the rate of one is a flag."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("measured", "experiments/results/fleet_10000.json", "Figures of a run of the study `fleet`.")
    flags.DEFINE_integer("measured_scenes_per_shard", 100, "Scenes of a unit of that run.", lower_bound=1)
    flags.DEFINE_integer("images", 10_000_000, "Images.", lower_bound=1)
    flags.DEFINE_integer("accelerators", 256, "Accelerators, one worker each.", lower_bound=1)
    flags.DEFINE_integer("per_node", 8, "Accelerators of a node.", lower_bound=1)
    flags.DEFINE_list("rates", ["10", "30", "100"], "Images that an accelerator fits in a second.")
    flags.DEFINE_integer("scenes_per_shard", 256, "Images of a unit.", lower_bound=1)
    flags.DEFINE_float("driver_ms", 0.63, "Processor time of the driver for a unit.")
    flags.DEFINE_float("put_ms", 30.0, "Until an object is put: the driver commits one unit after the other.")
    flags.DEFINE_float("start_s", 60.0, "Until a new worker fits.")
    flags.DEFINE_float("lost_per_hour", 0.05, "Share of the nodes that are lost in an hour.")
    flags.DEFINE_float("put_price", 5.0, "Dollars for a million of PUT, COPY, LIST.")
    flags.DEFINE_float("get_price", 0.4, "Dollars for a million of GET and HEAD.")
    flags.DEFINE_float("kb_per_image", 0.0, "Bytes stored of an image / 1000, fits and cues.")
    flags.DEFINE_float("storage_price", 23.0, "Dollars for a terabyte and month.")


def main(_: list[str]) -> None:
    measured = json.loads(Path(FLAGS.measured).read_text())
    requests = requests_of(measured["alone"], FLAGS.measured_scenes_per_shard)
    print("requests of a unit, measured:", {method: round(count, 2) for method, count in requests.items()})
    rows = [costs(float(rate), requests) for rate in FLAGS.rates]
    names = list(rows[0])
    print(
        "| |" + " | ".join(f"{rate} images/s" for rate in FLAGS.rates) + " |",
        "| --- " * (len(rows) + 1) + "|",
        sep="\n",
    )
    for name in names:
        print(f"| {name} | " + " | ".join(f"{row[name]:.3g}" for row in rows) + " |")


def requests_of(job: dict[str, Any], scenes_per_shard: int) -> dict[str, float]:
    """Requests for a unit of a job, with those of its begin and end and of the check of its digest."""
    units = math.ceil(job["scenes"] / scenes_per_shard)
    return {method: count / units for method, count in job["requests"].items()}


def costs(rate: float, requests: dict[str, float]) -> dict[str, float]:
    """Figures of a job in which an accelerator fits `rate` images a second."""
    units = math.ceil(FLAGS.images / FLAGS.scenes_per_shard)
    hours = FLAGS.images / (FLAGS.accelerators * rate) / 3600
    unit_s = FLAGS.scenes_per_shard / rate
    tasks_per_s = FLAGS.accelerators / unit_s
    puts = units * (requests.get("PUT", 0) + requests.get("POST", 0))
    gets = units * (requests.get("GET", 0) + requests.get("HEAD", 0))
    nodes = FLAGS.accelerators / FLAGS.per_node
    lost_workers = nodes * FLAGS.lost_per_hour * FLAGS.per_node  # an hour
    # Of the two units of a lost worker one is half done in the mean, the other one is read at most.
    lost_s = lost_workers * (unit_s / 2 + FLAGS.start_s)
    # A unit is with a worker for the time of two units; it is given up after four workers.
    once = 1 - math.exp(-FLAGS.lost_per_hour / 3600 * 2 * unit_s)
    return {
        "units": units,
        "hours without losses": hours,
        "tasks a second at the driver": tasks_per_s,
        "tasks a second that it can do": 1000 / (FLAGS.driver_ms + FLAGS.put_ms),
        "processor seconds of the driver": units * FLAGS.driver_ms / 1000,
        "PUT, million": puts / 1e6,
        "GET and HEAD, million": gets / 1e6,
        "requests a second": (puts + gets) / (hours * 3600),
        "requests, dollars": puts / 1e6 * FLAGS.put_price + gets / 1e6 * FLAGS.get_price,
        "storage, terabytes": FLAGS.images * FLAGS.kb_per_image / 1e9,
        "storage, dollars a month": FLAGS.images * FLAGS.kb_per_image / 1e9 * FLAGS.storage_price,
        "workers lost an hour": lost_workers,
        "work lost, % of the accelerators' time": 100 * lost_s / (FLAGS.accelerators * 3600),
        "units given up, expected": units * once**4,
    }


if __name__ == "__main__":
    define_flags()
    app.run(main)
