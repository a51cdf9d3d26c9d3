"""SMPL-X against the live `smplx` package (CPU torch) on a synthetic official-layout file: `make test-parity`."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smplx_synthetic

from body_models import smplx as ours

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
theirs = pytest.importorskip("smplx")

PEOPLE = 4


@pytest.fixture(scope="module", params=[20, 400])
def path(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), smplx_synthetic.arrays(seed=7, columns=request.param))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("hands", ["full", "pca", "pca_flat"])
def test_official_parameters_give_the_official_mesh(path, hands, precision):
    rng = np.random.default_rng(11)
    use_pca, flat, width = hands != "full", hands == "pca_flat", 45 if hands == "full" else 12
    official = {
        name: rng.standard_normal((PEOPLE, size)) * scale
        for name, size, scale in (
            ("betas", 10, 1.0), ("expression", 10, 1.0), ("global_orient", 3, 1.0), ("body_pose", 63, 0.4),
            ("jaw_pose", 3, 0.3), ("leye_pose", 3, 0.2), ("reye_pose", 3, 0.2), ("left_hand_pose", width, 0.3),
            ("right_hand_pose", width, 0.3), ("transl", 3, 2.0),
        )
    }  # fmt: skip
    dtype = getattr(torch, precision)
    layer = theirs.SMPLX(
        str(path), num_betas=10, num_expression_coeffs=10, use_pca=use_pca, num_pca_comps=12, flat_hand_mean=flat,
        batch_size=PEOPLE, dtype=dtype,
    )  # fmt: skip
    with torch.no_grad():
        want = layer(**{name: torch.tensor(value, dtype=dtype) for name, value in official.items()})
    with jax.enable_x64(precision == "float64"):
        model = ours.load(path, use_pca=use_pca, num_pca=12, flat_hand_mean=flat, dtype=jnp.dtype(precision))
        given = {name: jnp.asarray(value, model.dtype) for name, value in official.items()}
        names = ("body_pose", "jaw_pose", "leye_pose", "reye_pose", "left_hand_pose", "right_hand_pose")
        betas, expression = given["betas"], given["expression"]
        out = ours.forward(
            model,
            ours.Params(
                betas=betas,
                root_rotvec=given["global_orient"],
                pose_rotvec=ours.pose_from_official(model, **{name: given[name] for name in names}),
                translation=ours.translation_from_transl(model, betas, given["transl"], expression),
                expression=expression,
            ),
        )
    vertices = np.abs(np.asarray(out.vertices) - want.vertices.numpy()).max()
    joints = np.abs(np.asarray(out.joints) - want.joints[:, :55].numpy()).max()
    print(f"{hands} {precision}: vertices {vertices:.2e} m, joints {joints:.2e} m")
    # The package adds 1e-8 to rotation vectors before their norm, which limits the agreement in float64.
    assert max(vertices, joints) < (1e-5 if precision == "float32" else 1e-7)
    # Its joints after the 55 start with surface points: nose, right eye, left eye, right ear, left ear.
    face = want.joints[:, 55:60].numpy()[:, [0, 2, 1, 4, 3]]
    assert np.abs(np.asarray(out.keypoints)[:, :5] - face).max() < 1e-5
