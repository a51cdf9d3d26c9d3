"""Export fits for other programs.

    python -m experiments.export --fits=OUT --format=npz --output=DIR                  # parameters, <scene>.npz
    python -m experiments.export --fits=OUT --format=glb --output=DIR                  # meshes, <scene>.glb
    python -m experiments.export --fits=OUT --format=ply --output=DIR --scenes=a,b --frame=world

Frames and axes are in `annyfit_jax.export`; .glb and .ply open upright in Blender. One file per scene: in a .glb each person is
a mesh of its own (`person_<id>`), a .ply has all people in one mesh; both carry the person's colour of the pictures. People
without a fit are NaN rows in the .npz and absent from the meshes; a scene without any is left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from annyfit_jax import export, results
from annyfit_jax.meshes import BodyMeshes
from annyfit_jax.results import FitFileError


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("fits", "", "Output folder of experiments.fit, or its `fits` folder.")
    flags.DEFINE_string("output", "", "Folder to write.")
    flags.DEFINE_string("format", "npz", f"One of {', '.join(export.FORMATS)}.")
    flags.DEFINE_list("scenes", [], "Names of scenes; all by default.")
    flags.DEFINE_string("frame", "camera", f"One of {', '.join(export.FRAMES)}: origin at the camera or on the floor.")


def main(_: list[str]) -> None:
    for name in ("fits", "output"):
        if not flags.FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    try:
        written, empty = run(
            flags.FLAGS.fits, flags.FLAGS.output, flags.FLAGS.format, flags.FLAGS.scenes, flags.FLAGS.frame
        )
    except (FitFileError, FileNotFoundError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(f"{len(written)} files: {flags.FLAGS.output}" + (f"; nobody fitted in {', '.join(empty)}" if empty else ""))


def run(
    fits: str, output: str, file_format: str, scenes: Sequence[str] = (), frame: str = "camera"
) -> tuple[list[Path], list[str]]:
    """Export fits; returns the files written and the names of scenes without a mesh.

    Raises FileNotFoundError without fits, FitFileError on a broken one, ValueError on an unknown format, frame or scene.
    """
    if file_format not in export.FORMATS:
        raise ValueError(f"--format={file_format}: expected one of {', '.join(export.FORMATS)}")
    if frame not in export.FRAMES:
        raise ValueError(f"--frame={frame}: expected one of {', '.join(export.FRAMES)}")
    files = {path.stem: path for path in export.fit_files(fits)}
    unknown = [name for name in scenes if name not in files]
    if unknown:
        raise ValueError(f"--scenes: no fit of {', '.join(unknown)} in {fits}; there are {', '.join(files)}")
    meshes = BodyMeshes() if file_format != "npz" or frame == "world" else None
    written, empty = [], []
    for name in scenes or files:
        fit = results.load(files[name])
        rows, vertices = export.drawable(fit), None
        if meshes is not None:
            if fit.asset_version != meshes.model.labels.asset_version:
                raise ValueError(
                    f"{files[name]}: asset_version {fit.asset_version}, but this program's body is "
                    f"{meshes.model.labels.asset_version}"
                )
            vertices = meshes.vertices(export.fit_parameters(fit).select(rows))
        transform = export.camera_to_frame(frame, vertices)
        path = Path(output) / f"{name}.{file_format}"
        if file_format == "npz":
            export.export_npz(fit, path, transform, frame)
        elif meshes is None or vertices is None or not len(rows):
            empty.append(name)
            continue
        else:
            write = export.export_glb if file_format == "glb" else export.export_ply
            write(fit, path, vertices, meshes.faces, transform, frame)
        written.append(path)
    return written, empty


if __name__ == "__main__":
    define_flags()
    app.run(main)
