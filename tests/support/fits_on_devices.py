"""Second-order fits of recorded scenes on all CPU devices of this process, as a program of its own.

XLA_FLAGS=--xla_force_host_platform_device_count=2 python tests/support/fits_on_devices.py fits.npz .cache/jax
"""

from __future__ import annotations

import sys

import jax
import numpy as np

PARAMETERS = ("transl", "root_rotvec", "shape", "pose", "height_m", "fitted_keypoints_3d", "sd_depth_m", "trust")
SCENES = 9
"""More than the lists of four devices hold in one round, of one to five people."""


def main(path: str, cache: str) -> None:
    """Writes `PARAMETERS` of all people, one scene after the other, and the number of devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from second_order_cases import plus_config, scene

    from annyfit_jax.fit.fitter import Fitter

    fitter = Fitter(plus_config("lm.rounds=3", "person_lengths=[8]"))
    fits = list(fitter.fit(scene(k % 4, name=f"scene{k}") for k in range(SCENES)))
    assert all(fit.ok.all() for fit in fits)
    arrays = {name: np.concatenate([getattr(fit, name) for fit in fits]) for name in PARAMETERS}
    np.savez(path, allow_pickle=False, devices=np.array(len(fitter.devices)), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
