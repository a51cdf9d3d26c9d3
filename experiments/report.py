"""A static report of fits, opened from disk: charts, worst and random scenes, filter and sort, pictures, 3D views.

    python -m experiments.report --fits=OUT --output=out/report
    python -m experiments.report --fits=OUT --input=DATASET --truth=DATASET --output=out/report --pictures=-1
    python -m experiments.report --fits=OUT --input=annotations.json --images=photos --output=out/report --title='Trip'

--fits is what experiments.fit wrote: a job, finished or under way, a folder of fits, one fit. Photos come from the path
that a fit names, else from --input. With --truth (synthetic scenes) errors are columns, charts and the order of the worst
scenes. Numbers are there for every scene; pictures and 3D views for --pictures of them, half of them the worst, half at
random (-1 = all; 1 to 2 s and 1 MB a scene).

The folder is complete in itself and asks nothing of a network: open index.html. Written again, it is replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from annyfit_jax.people.scene import Scene, SceneError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    from experiments import input_flags  # noqa: F401 (defines --input and what belongs to it)

    flags.DEFINE_string("fits", None, "Output of experiments.fit, its `fits` folder, or one fit.")
    flags.DEFINE_string("truth", None, "Synthetic scenes with exact truth.")
    flags.DEFINE_string("output", None, "Folder of the report.")
    flags.DEFINE_string("title", None, "Title. Default: the name of --fits.")
    flags.DEFINE_integer("pictures", 60, "Scenes with pictures and a 3D view; -1 = all.", lower_bound=-1)
    flags.DEFINE_string("worst_by", "", "Column that says which scenes are worst, e.g. reprojection_share.")
    flags.DEFINE_integer("seed", 0, "Seed of the scenes at random.")


def main(_: list[str]) -> None:
    from annyfit_jax.jobs.fit_source import open_fits
    from annyfit_jax.records.fit_files import FitFileError
    from annyfit_jax.report import ReportOptions, write_report

    for name in ("fits", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    options = ReportOptions(
        title=FLAGS.title or Path(FLAGS.fits).resolve().name, pictures=FLAGS.pictures, worst_by=FLAGS.worst_by, seed=FLAGS.seed
    )  # fmt: skip
    try:
        page = write_report(
            open_fits(FLAGS.fits), FLAGS.output, options,
            truth=scenes_by_name(FLAGS.truth) if FLAGS.truth else None,
            truth_location=FLAGS.truth or "",
            photo=photos_by_name() if FLAGS.input else None,
        )  # fmt: skip
    except (FitFileError, SceneError, FileNotFoundError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(f"open {page}")


def scenes_by_name(path: str) -> Callable[[str], Scene | None]:
    """Loads a scene of an input by its name; None where it has none of that name. Raises SceneError."""
    from annyfit_jax.inputs import open_input

    source = open_input(path)
    position = {name: i for i, name in enumerate(source.names)}
    return lambda name: source.load(position[name]) if name in position else None


def photos_by_name() -> Callable[[str], bytes]:
    """Encoded photos of --input by scene name, empty where there is none. Raises SceneError."""
    from annyfit_jax.inputs.cue_source import CueSource
    from experiments import input_flags

    source = input_flags.open_from_flags()
    position = {name: i for i, name in enumerate(source.names)}
    if isinstance(source, CueSource):
        return functools.partial(_packed, source, position)
    return functools.partial(_beside, source, position)


def _packed(source, position: dict[str, int], name: str) -> bytes:
    return source.photo(position[name]) if name in position else b""


def _beside(source, position: dict[str, int], name: str) -> bytes:
    path = source.load(position[name]).image_path if name in position else None
    return Path(path).read_bytes() if path and Path(path).is_file() else b""


if __name__ == "__main__":
    define_flags()
    app.run(main)
