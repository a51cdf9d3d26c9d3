"""Fit Anny to the people of photos: a handful or a whole collection.

    python -m experiments.fit --input=SCENES --output=OUT                         # folder of scene .npz files
    python -m experiments.fit --input=annotations.json --images=DIR --output=OUT  # COCO keypoints
    python -m experiments.fit --input=ROOT --output=OUT                           # official anny-fit preprocessing
    python -m experiments.fit --input=DATASET --output=OUT                        # cue dataset (experiments.pack)
    ... --set=stages.pose.lr.pose=0.002 --set=stages.pose.weights.depth_order=50

OUT is a job (`annyfit_jax.jobs`): kill it whenever you like, run the same command to go on; start it on as many machines as
you have (`--process_index`, `--process_count`, or `experiments/launch/`); watch it with `python -m experiments.status`.

Writes one shard of records per 256 scenes and, once all are done, dataset_info.json and features.json (OUT is then a TFDS
dataset), people.jsonl (a row per person), scenes_set_aside.jsonl, config.json. Inputs other than datasets also get
fits/<scene>.npz, and with --pictures index.html.

Exit codes: 0 finished (this process's share), 2 wrong usage or input, 74 OUT cannot be written (make room and run again),
75 stopped by SIGTERM or SIGINT (run again to go on).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags, logging

from annyfit_jax.people.scene import Scene, SceneError

if TYPE_CHECKING:
    from annyfit_jax.fit.config import FitConfig
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.inputs import SceneSource

_CONFIG_FOLDER = Path(__file__).parent / "configs"
_INTRO = (
    "<p>Bodies fitted by <code>annyfit-jax</code> in camera space, in metres. Age runs from 0 (baby) over 0.33 (child) and "
    "0.66 (adult) to 1 (elder); gender from 0 (male) to 1 (female). One colour per person.</p>"
)
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    from experiments import input_flags  # noqa: F401 (defines --input and what belongs to it)

    flags.DEFINE_string("output", None, "Folder of the job, made or continued.")
    flags.DEFINE_string(
        "config",
        "",
        "Python file with get_config(). Default: annyfit_plus.py, for scenes with and without a start.",
    )
    flags.DEFINE_multi_string("set", [], "path=value changes of the config, e.g. stages.pose.lr.pose=0.002.")
    flags.DEFINE_integer("limit", None, "Only the first so many scenes.", lower_bound=1)
    flags.DEFINE_bool("pictures", False, "Also write index.html with overlays, top and side views.")
    flags.DEFINE_bool("save_vertices", False, "Store posed vertices in the fit files (160 kB a person).")
    flags.DEFINE_bool("fit_files", None, "Write fits/<scene>.npz. Default: yes, except for cue datasets.")
    flags.DEFINE_integer("scenes_per_shard", 256, "Scenes of a unit of work and of its shard.", lower_bound=1)
    flags.DEFINE_integer(
        "process_index", None, "This process among --process_count. Default: from SLURM, Kubernetes, TPU pod."
    )
    flags.DEFINE_integer("process_count", None, "Number of processes that share the job.")
    flags.DEFINE_bool("steal", False, "When the own share is done, help with what nobody works on.")
    flags.DEFINE_bool("retry_failed", False, "Fit the failed scenes of finished units again.")
    flags.DEFINE_bool("overwrite", False, "Remove the results of an earlier job in --output first (one process only).")
    flags.DEFINE_float(
        "lease_s", 120.0, "A unit is taken over from a process silent for so many seconds.", lower_bound=1.0
    )
    flags.DEFINE_float("log_every_s", 10.0, "Seconds between progress lines.", lower_bound=0.0)
    flags.DEFINE_bool("tensorboard", False, "Progress for TensorBoard in OUT/tensorboard (needs tensorboardX).")
    flags.DEFINE_string("profile", None, "Folder for a jax.profiler trace of the first batches.")
    flags.DEFINE_string(
        "compile_cache", "~/.cache/annyfit-jax/xla", "Folder of compiled programs, kept between runs; empty = none."
    )


def main(_: list[str]) -> None:
    from annyfit_jax.jobs.durable_files import JobWriteError
    from annyfit_jax.jobs.runner import EXIT_DISK, EXIT_INTERRUPTED, EXIT_USAGE, Interrupted, stop_on_signal

    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    stop = threading.Event()
    try:
        with stop_on_signal(stop):
            run(stop)
    except (SceneError, ValueError, FileNotFoundError) as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_USAGE) from None
    except JobWriteError as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_DISK) from None
    except Interrupted:
        logging.warning("stopped; run the same command again to go on")
        raise SystemExit(EXIT_INTERRUPTED) from None


def run(stop: threading.Event) -> None:
    """The program, after flag parsing, until `stop` is set. Raises SceneError, ValueError, JobWriteError, Interrupted."""
    import annyfit_jax
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.jobs.finish import finish
    from annyfit_jax.jobs.hosts import find_process
    from annyfit_jax.jobs.job_feed import Job
    from annyfit_jax.jobs.job_plan import Identity, Plan, hash_names, open_job
    from annyfit_jax.jobs.ledger import Ledger
    from annyfit_jax.jobs.progress import Profiler, Progress
    from annyfit_jax.jobs.runner import Runner
    from annyfit_jax.records.settings import to_json
    from body_models import anny

    _use_compile_cache()
    process = find_process(FLAGS.process_index, FLAGS.process_count)
    if FLAGS.overwrite and process.count > 1:
        raise ValueError("--overwrite is for a single process: the others might already be at work on the new job")
    source, options = _open_source()
    total = min(len(source), FLAGS.limit or len(source))
    plan, folder = Plan(total, FLAGS.scenes_per_shard), Path(FLAGS.output)
    logging.info("%s: %d scenes (%s); process %d of %d (%s)", FLAGS.input, total, source.kind, *process)

    by_hash, config_of = _configs()
    model = anny.load()
    identity = Identity(
        kind=source.kind,
        names_sha256=hash_names(source.names[:total]),
        plan=plan,
        configs={name: to_json(config) for name, config in by_hash.items()},
        asset_version=str(model.labels.asset_version),
        package_version=annyfit_jax.__version__,
        options=options,
    )
    open_job(folder, identity, overwrite=FLAGS.overwrite)
    fitters: dict[str, Fitter] = {}

    def fitter_of(name: str) -> Fitter:
        if name not in fitters:
            fitters[name] = Fitter(by_hash[name], model)
        return fitters[name]

    ledger = Ledger(folder, plan)
    job = Job(
        folder, source, ledger, config_of, fitter_of, identity.config_hash, identity.asset_version,
        retry_failed=FLAGS.retry_failed, steal=FLAGS.steal,
    )  # fmt: skip
    share = sum(len(plan.scenes(unit)) for unit in plan.share(process))
    runner = Runner(
        job, process, Progress(folder, process, share, every_s=FLAGS.log_every_s, tensorboard=FLAGS.tensorboard),
        lease_s=FLAGS.lease_s, fit_files=_with_fit_files(source), save_vertices=FLAGS.save_vertices,
        profiler=Profiler(FLAGS.profile), stop=stop,
    )  # fmt: skip
    runner.run()
    totals = finish(folder, ledger)
    if totals is None:
        left = sum(ledger.entry(unit) is None for unit in range(plan.num_units))
        print(f"process {process.index} of {process.count} is done; {left} units are left to others: {folder}")
        return
    people, aside = totals["people"], sum(n for status, n in totals["scenes"].items() if status != "ok")
    print(
        f"{totals['scenes'].get('ok', 0)} scenes, {people.get('ok', 0)} of {sum(people.values())} people fitted, "
        f"{aside} scenes set aside: {folder / 'fits' if _with_fit_files(source) else folder}"
    )
    if FLAGS.pictures:
        _write_pictures(folder, source.names[:total], model)


def _with_fit_files(source: SceneSource) -> bool:
    wanted = source.kind != "cues" if FLAGS.fit_files is None else FLAGS.fit_files
    return wanted or FLAGS.pictures or FLAGS.save_vertices


def _open_source() -> tuple[SceneSource, dict[str, object]]:
    """The scenes, and the options that decide what they hold, for the job's identity."""
    from experiments import input_flags

    source, options = input_flags.open_from_flags(), input_flags.input_options()
    # Folders may move between runs; only whether they are given counts. The words decide the fit, so their content does.
    identity: dict[str, object] = {
        name: value if name in ("fov_degrees", "translation") else bool(value) for name, value in options.items()
    }
    identity.pop("images", None)
    if "words" in options:
        identity["words"] = hashlib.sha256(Path(options["words"]).read_bytes()).hexdigest()[:16]
    return source, identity


def _configs() -> tuple[dict[str, FitConfig], Callable[[Scene], str]]:
    """The configs that scenes may be fitted with, by hash, and which one a scene takes."""
    from annyfit_jax.fit.config import load_config
    from annyfit_jax.records.settings import apply_overrides, config_hash

    def load(path: str | Path) -> FitConfig:
        return apply_overrides(load_config(path), FLAGS["set"].value or ())

    only = load(FLAGS.config or _CONFIG_FOLDER / "annyfit_plus.py")
    name = config_hash(only)
    return {name: only}, lambda _: name


def _use_compile_cache() -> None:
    """Compiled programs on disk, unless the user has told JAX where to keep them."""
    import jax

    if FLAGS.compile_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(FLAGS.compile_cache).expanduser()))


def _write_pictures(folder: Path, names: tuple[str, ...], model) -> None:
    """OUT/index.html from the fit files."""
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.records import fit_files as results
    from annyfit_jax.report.scene_pages import coco_credits, parameters, scene_page
    from annyfit_jax.viz import write_page

    meshes, credits, pages = BodyMeshes(model), coco_credits(FLAGS.input), []
    for path in (folder / "fits" / f"{name}.npz" for name in sorted(names)):
        if path.exists():  # scenes set aside have no fit
            fit = results.load(path)
            vertices = meshes.vertices(parameters(fit)) if fit.vertices is None else fit.vertices
            pages.append(scene_page(fit, vertices, model.faces, credits.get(Path(fit.image_path).name, "")))
    print(f"open {write_page(folder, pages, title='Anny-Fit', intro_html=_INTRO)}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
