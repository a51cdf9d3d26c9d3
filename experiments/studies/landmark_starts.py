"""What the start from metric landmarks is worth on photos of people whose joints are known in 3D.

    annyfit precompute --images=DATA/photos --output=CUES
    python -m experiments.studies.landmark_starts --cues=CUES --data=DATA --output=OUT

`DATA` holds `pose2sim.json` (COCO keypoints with intrinsics), `truth.json` (by annotation id: `j17` in camera axes, metres)
and `Calib.qca.txt` (the lenses). The person of a photo whose keypoints lie nearest to an annotation's is that person; others
are fitted too and not judged. The landmarks themselves are judged as they come, in metres.

Writes OUT/<variant>/fits/*.npz with the annotations' ids, as tools that judge fits read them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from jaxtyping import Float

from annyfit_jax.fit.config import load_config
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.landmark_start import COCO_OF_LANDMARKS, line_of_sight
from annyfit_jax.inputs import open_input
from annyfit_jax.inputs.calibrated_scene import calibrated
from annyfit_jax.inputs.calibration import read_calibration
from annyfit_jax.metrics.joint_errors import pa_mpjpe
from annyfit_jax.people.scene import LANDMARKS_M, LANDMARKS_PX, Scene
from annyfit_jax.records import fit_files
from annyfit_jax.records.settings import apply_overrides

FLAGS = flags.FLAGS
_BODY, _HIPS = np.arange(5, 17), [11, 12]
_VARIANTS = {"without": "map.landmark_start=false", "with": "map.landmark_start=true"}


def scenes_with_truth(cues: str, data: Path, truth: dict) -> list[Scene]:
    """The scenes of the cue dataset with the cameras of the data; people that are annotated have the annotation's id."""
    content = json.loads((data / "pose2sim.json").read_text())
    calibration = read_calibration(str(data / "Calib.qca.txt"))
    images = {Path(image["file_name"]).stem: image for image in content["images"]}
    source, scenes = open_input(cues), []
    for i in range(len(source)):
        scene = source.load(i)
        image = images[Path(scene.name).stem]
        lens = calibration.camera_of("", named=f"cam_0{Path(scene.name).stem[-1]}").lens
        scene = calibrated(scene, np.array(image["intrinsics"]), lens)
        ids = [f"{scene.name}/{person}" for person in range(len(scene))]
        for annotation in content["annotations"]:
            if annotation["image_id"] != image["id"] or str(annotation["id"]) not in truth:
                continue
            points = np.array(annotation["keypoints"]).reshape(17, 3)
            both = (scene.keypoints[..., 2] > 0.3) & (points[:, 2] > 0)
            off = np.linalg.norm(scene.keypoints[..., :2] - points[:, :2], axis=-1)
            far = np.where(both, off, 0.0).sum(1) / np.maximum(both.sum(1), 1)
            ids[int(np.where(both.sum(1) > 5, far, np.inf).argmin())] = str(annotation["id"])
        scenes.append(dataclasses.replace(scene, person_ids=ids))
    return scenes


def errors(points: Float[np.ndarray, "17 3"], joints: Float[np.ndarray, "17 3"]) -> tuple[float, float]:
    """(MPJPE with hips aligned, PA-MPJPE), millimetres, over the body's joints that are known."""
    known = [j for j in _BODY if np.isfinite(joints[j]).all()]
    off = (points - points[_HIPS].mean(0) - joints + joints[_HIPS].mean(0))[known]
    return float(np.linalg.norm(off, axis=-1).mean() * 1e3), float(pa_mpjpe(points[known], joints[known]) * 1e3)


def judge_landmarks(scenes: Sequence[Scene], truth: dict) -> dict[str, tuple[float, float]]:
    """Errors of the metric landmarks of every person with truth, by id, in the camera's axes."""
    result = {}
    for scene in scenes:
        sight = line_of_sight(np.asarray(scene.extra[LANDMARKS_PX], np.float64), scene.intrinsics)
        for row, person in enumerate(scene.person_ids):
            if person in truth:
                joints = np.array(truth[person]["j17"], float)
                points = scene.extra[LANDMARKS_M][row, list(COCO_OF_LANDMARKS)] @ sight[row].T
                if np.isfinite(joints[_HIPS]).all():
                    result[person] = errors(points, joints)
    return result


def tell(name: str, found: dict[str, tuple[float, float]]) -> None:
    mpjpe, pa = np.array(list(found.values())).T
    print(
        f"{name}: {len(found)} people, MPJPE mean {mpjpe.mean():.0f} median {np.median(mpjpe):.0f} worst {mpjpe.max():.0f}, "
        f"PA mean {pa.mean():.0f} median {np.median(pa):.0f} mm"
    )


def main(_: list[str]) -> None:
    data, output = Path(FLAGS.data), Path(FLAGS.output)
    truth = json.loads((data / "truth.json").read_text())
    scenes = scenes_with_truth(FLAGS.cues, data, truth)
    table = {"landmarks": judge_landmarks(scenes, truth)}
    tell("landmarks", table["landmarks"])
    for name, assignment in _VARIANTS.items() if FLAGS.fit else ():
        config = apply_overrides(load_config(FLAGS.config), [assignment, *FLAGS.set])
        fitter, begun, found = Fitter(config), (time.perf_counter(), time.process_time()), {}
        (output / name / "fits").mkdir(parents=True, exist_ok=True)
        for fit in fitter.fit(scenes):
            fit_files.save(fit, output / name / "fits" / f"{fit.name}.npz")
            for row, person in enumerate(fit.person_ids):
                joints = (
                    np.array(truth[str(person)]["j17"], float) if str(person) in truth else np.full((17, 3), np.nan)
                )
                if np.isfinite(joints[_HIPS]).all() and np.isfinite(fit.fitted_keypoints_3d[row]).all():
                    found[str(person)] = errors(fit.fitted_keypoints_3d[row].astype(float), joints)
        table[name] = found
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        tell(name, found)
        begun = time.process_time()
        list(fitter.fit(scenes))
        print(f"  {wall:.0f} s, {cpu:.0f} s of CPU with compilation; {time.process_time() - begun:.1f} s of CPU again")
    for person in sorted(table["landmarks"], key=int):
        cells = [f"{row[person][0]:5.0f}/{row[person][1]:4.0f}" if person in row else "    -" for row in table.values()]
        print(f"{truth[person]['image']:>20} {'  '.join(cells)}")


if __name__ == "__main__":
    flags.DEFINE_string("cues", None, "Cue dataset of the photos.", required=True)
    flags.DEFINE_string("data", None, "Folder of the annotations and the truth.", required=True)
    flags.DEFINE_string("output", None, "Folder of the fits.", required=True)
    flags.DEFINE_bool("fit", True, "Also fit; else the landmarks alone are judged.")
    flags.DEFINE_string("config", "experiments/configs/annyfit_plus.py", "Config file.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config.")
    app.run(main)
