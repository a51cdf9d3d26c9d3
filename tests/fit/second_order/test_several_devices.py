"""Second-order fits on several CPU devices: they end, and are those of one device.

Batched factorisations of jaxlib wait for subtasks in the thread pool that they occupy, so that two devices at once stand still
for ever; with factors of plain operations (`small_linear`) they cannot. Should they be back, this test never ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fits_on_devices import PARAMETERS
from helpers import REPO

pytestmark = [pytest.mark.slow, pytest.mark.process]


def fitted(devices: int, folder: Path) -> dict[str, np.ndarray]:
    """What `fits_on_devices` finds in a process with so many CPU devices."""
    path = folder / f"{devices}.npz"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "tests" / "support")]),
    }
    program = str(REPO / "tests" / "support" / "fits_on_devices.py")
    done = subprocess.run(
        [sys.executable, program, str(path), str(REPO / ".cache" / "jax")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(path) as archive:
        return dict(archive)


def test_fits_are_those_of_one_device(tmp_path):
    """Other lists, other vector lengths: equal up to rounding, in metres, radians and phenotypes."""
    alone, together = fitted(1, tmp_path), fitted(4, tmp_path)
    assert (int(alone["devices"]), int(together["devices"])) == (1, 4)
    for name in PARAMETERS:
        np.testing.assert_allclose(together[name], alone[name], atol=5e-4, rtol=1e-4, err_msg=name)
    assert np.ptp(alone["transl"], axis=0).max() > 0.1
