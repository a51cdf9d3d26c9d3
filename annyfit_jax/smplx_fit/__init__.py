"""SMPL-X fitted to the cues of people whom Anny has been fitted to: the same objective in SMPL-X's own parameters.

| module | what it does |
|---|---|
| `bone_frames` | every joint of SMPL-X in the frame of its bone of Anny: poses of either as those of the other |
| `smplx_jacobian` | points of SMPL-X and their derivatives for `fit.second_order` |
| `smplx_map_body` | SMPL-X as both solvers take it: limits, mixture of poses and cues carried over |
| `smplx_start` | the start of a list of people from their fits of Anny |
| `smplx_points` | named points of feet, face and hands on SMPL-X |
| `smplx_part_body` | its hands, head and feet as `fit.parts` takes them |
| `smplx_fitter` | a `Fitter` whose fits have SMPL-X beside Anny |
"""
