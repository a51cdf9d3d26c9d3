"""Fit Anny to the people of photos.

    python -m experiments.fit --input=SCENES --output=OUT                         # folder of scene .npz files
    python -m experiments.fit --input=annotations.json --images=DIR --output=OUT  # COCO keypoints
    python -m experiments.fit --input=ROOT --output=OUT                           # official anny-fit preprocessing
    ... --set=stages.pose.lr.pose=0.002 --set=stages.pose.weights.depth_order=50

Writes OUT/fits/<scene>.npz, OUT/people.jsonl (a row per person), OUT/scenes_set_aside.jsonl, OUT/config.json, and with
--pictures OUT/index.html.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging

from annyfit_jax import config as configs
from annyfit_jax import results
from annyfit_jax.scene import DEFAULT_FOV_DEGREES, Scene, SceneError

_INPUT = flags.DEFINE_string("input", None, "Scenes: folder of .npz, COCO .json, or an official preprocessing folder.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_CONFIG = flags.DEFINE_string(
    "config", "", "Python file with get_config(). Default: annyfit.py where the input has starts, else annyfit_keypoints.py."
)
_SET = flags.DEFINE_multi_string("set", [], "path=value changes of the config, e.g. stages.pose.lr.pose=0.002.")
_IMAGES = flags.DEFINE_string("images", None, "Folder of the photos (COCO input).")
_FOV = flags.DEFINE_float("fov", DEFAULT_FOV_DEGREES, "Field of view of the longest image side, degrees, where K is unknown.")
_WORDS = flags.DEFINE_string("words", None, "JSON file of age and gender words per annotation id (COCO input).")
_DEPTH = flags.DEFINE_string("depth", None, "Folder of depth maps, <stem>.npy, .npz or 16-bit .png in mm (COCO input).")
_MASKS = flags.DEFINE_string("masks", None, "Folder of label images <stem>.png (COCO input).")
_HAND_LABELS = flags.DEFINE_bool("hand_labels", False, "Use hand labels of age and gender where there are no words (COCO).")
_HAND_DEPTH = flags.DEFINE_bool("hand_depth", False, "Use hand-labelled depth layers as the ranking cue (COCO).")
_TRANSLATION = flags.DEFINE_enum(
    "translation", "pelvis", ["pelvis", "head"], "Multi-HMR translation to read; `head` repeats the release (official)."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many scenes.")
_PICTURES = flags.DEFINE_bool("pictures", False, "Also write index.html with overlays, top and side views.")
_VERTICES = flags.DEFINE_bool("save_vertices", False, "Store posed vertices in the fit files (160 kB a person).")

_CONFIG_FOLDER = Path(__file__).parent / "configs"


def main(_: list[str]) -> None:
    for flag in (_INPUT, _OUTPUT):
        if not flag.value:
            raise app.UsageError(f"--{flag.name} is missing")
    try:
        run()
    except (SceneError, ValueError, FileNotFoundError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None


def run() -> None:
    """The program, after flag parsing."""
    from annyfit_jax.fitting import Fitter
    from annyfit_jax.inputs import open_input
    from annyfit_jax.pages import coco_credits, parameters, scene_page
    from annyfit_jax.starts import PreparedScene
    from annyfit_jax.viz import write_page
    from body_models import anny

    named = {} if not _CONFIG.value else {"": configs.apply_overrides(configs.load_config(_CONFIG.value), _SET.value)}

    def config_for(scene: Scene) -> configs.FitConfig:
        if named:
            return named[""]
        kind = "annyfit" if scene.start is not None else "annyfit_keypoints"
        return configs.apply_overrides(configs.load_config(_CONFIG_FOLDER / f"{kind}.py"), _SET.value)

    options = {
        "words": _WORDS.value,
        "depth": _DEPTH.value,
        "masks": _MASKS.value,
        "hand_labels": _HAND_LABELS.value,
        "hand_depth": _HAND_DEPTH.value,
    }
    source = open_input(
        _INPUT.value,
        images=_IMAGES.value,
        fov_degrees=_FOV.value,
        translation=_TRANSLATION.value,
        **{name: value for name, value in options.items() if value},
    )
    total = min(len(source), _LIMIT.value or len(source))
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    logging.info("%s: %d scenes (%s)", _INPUT.value, total, source.kind)

    model = anny.load()
    fitters: dict[configs.FitConfig, Fitter] = {}
    set_aside: list[dict] = []
    credits = coco_credits(_INPUT.value)
    rows, pages, started, done = [], [], time.monotonic(), 0

    def ready(config: configs.FitConfig, indices: list[int]) -> Iterator[PreparedScene]:
        for index in indices:
            try:
                yield fitters[config].prepare(source.load(index))
            except SceneError as error:
                set_aside.append({"scene": source.names[index], "reason": str(error)})
                logging.warning("set aside: %s", error)

    # One program per config: with --config unset, scenes with and without a start take different ones.
    for config, indices in _by_config(source, total, config_for, set_aside).items():
        fitters[config] = Fitter(config, model)
        for batch in fitters[config].batches(ready(config, indices)):
            for fit in fitters[config].fit_batch(batch):
                if _VERTICES.value or _PICTURES.value:
                    fit.vertices = fitters[config].vertices(parameters(fit))
                if _PICTURES.value:
                    credit = credits.get(Path(fit.image_path).name, "")
                    pages.append(scene_page(fit, fit.vertices, model.faces, credit))
                if not _VERTICES.value:
                    fit.vertices = None
                results.save(fit, output / "fits" / f"{fit.name}.npz")
                rows += results.people_rows(fit)
                done += 1
            _progress(done, total, len(rows), len(set_aside), time.monotonic() - started)
    results.write_text(output / "people.jsonl", results.rows_to_jsonl(rows))
    results.write_text(output / "scenes_set_aside.jsonl", results.rows_to_jsonl(set_aside))
    results.write_text(output / "config.json", json.dumps([configs.to_json(c) for c in fitters], indent=1))
    fitted = sum(row["status"] == "ok" for row in rows)
    print(f"{done} scenes, {fitted} of {len(rows)} people fitted, {len(set_aside)} scenes set aside: {output / 'fits'}")
    if _PICTURES.value:
        page = write_page(output, sorted(pages, key=lambda p: p.name), title="Anny-Fit", intro_html=_INTRO)
        print(f"open {page}")


_INTRO = (
    "<p>Bodies fitted by <code>annyfit-jax</code> in camera space, in metres. Age runs from 0 (baby) over 0.33 (child) and "
    "0.66 (adult) to 1 (elder); gender from 0 (male) to 1 (female). One colour per person.</p>"
)


def _by_config(source, total: int, config_for, set_aside: list[dict]) -> dict[configs.FitConfig, list[int]]:
    """Scene indices per config, in input order."""
    if _CONFIG.value:
        return {config_for(None): list(range(total))}  # type: ignore[arg-type]
    grouped: dict[configs.FitConfig, list[int]] = {}
    for index in range(total):
        try:
            grouped.setdefault(config_for(source.load(index)), []).append(index)
        except SceneError as error:
            set_aside.append({"scene": source.names[index], "reason": str(error)})
            logging.warning("set aside: %s", error)
    return grouped


def _progress(done: int, total: int, people: int, aside: int, seconds: float) -> None:
    rate = done / max(seconds, 1e-9)
    left = (total - done - aside) / rate if rate else 0.0
    logging.info(
        "%d/%d scenes, %d people, %d set aside, %.2f scenes/s, %.0f s left", done, total, people, aside, rate, max(left, 0.0)
    )


if __name__ == "__main__":
    app.run(main)
