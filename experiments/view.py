"""Look at fits in 3D in a browser, scene after scene, served from this machine.

    pip install viser
    annyfit view --fits=OUT
    annyfit view --fits=OUT --scene=photo_17 --start --port=8081

The photo stands at the camera, and people can be switched on and off. `annyfit report` makes pages that need no server; this is
for turning through many scenes at full detail, each read when it is shown. --start adds the bodies that the fits started from,
in grey, where they are stored.
"""

from __future__ import annotations

import time

from absl import flags

from experiments import program, smplx_flags

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Fits": (
                flags.DEFINE_string("fits", None, "Output of `annyfit fit`, its `fits` folder, or one fit."),
                flags.DEFINE_string("scene", None, "Scene to begin with. Default: the first."),
                flags.DEFINE_bool("start", False, "Also show the start."),
            ),
            "SMPL-X": smplx_flags.define_fit_flags(),
            "Server": (
                flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines look."),
                flags.DEFINE_integer("port", 8080, "Port to listen at."),
            ),
        },
        required=("fits",),
    )


def main() -> None:
    try:
        import viser  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("viser is needed: pip install viser") from None
    from annyfit_jax.jobs.fit_source import open_fits
    from annyfit_jax.report.fit_viewer import Viewer

    fits = open_fits(FLAGS.fits)
    if not fits.names:
        raise ValueError(f"{FLAGS.fits}: nobody was fitted")
    if FLAGS.scene and FLAGS.scene not in fits.names:
        near = program.nearest(FLAGS.scene, fits.names)
        raise ValueError(f"--scene={FLAGS.scene}: no fit of that name in {FLAGS.fits}" + (f"; {near}" if near else ""))
    first = fits.names.index(FLAGS.scene) if FLAGS.scene else 0
    Viewer(
        viser.ViserServer(host=FLAGS.host, port=FLAGS.port),
        fits,
        first,
        with_start=FLAGS.start,
        bodies=smplx_flags.bodies(),
    ).show(first)
    print(f"open http://{FLAGS.host}:{FLAGS.port}; Ctrl+C ends", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    program.run("view")
