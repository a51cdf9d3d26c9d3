"""Fits by Levenberg-Marquardt: the MAP objective of the default config, or the last stage of the released one.

    body = second_order.prepare_body(model, fit_body, config)
    problem, variables = second_order.assemble(prepared_scenes, config)
    fit = jax.jit(second_order.solve, static_argnames="config")(config, body, problem, variables)

| module | what |
|---|---|
| `costs/` | the costs of the MAP energy, one file per concern, and the list of them |
| `map_objective.py` | the sum of the costs and its quadratic model |
| `hypotheses.py` | several starts of every person, solved together |
| `frozen.py` | noise scales, visible surface and sizes, estimated between rounds |
| `map_body.py`, `map_cues.py`, `placement.py` | the body, the cues and the closed-form start |
| `linear_plan.py`, `jacobian.py` | analytic Jacobian of contracted points, normal equations in dense blocks |
| `lm.py`, `small_linear.py` | the solver: damping, bounds, scene unknowns by a Schur complement |
| `released.py` | the released objective by the same solver |
| `uncertainty.py` | standard deviations from the curvature |
"""

from annyfit_jax.fit.second_order.solve import (
    Kind,
    MapProblem,
    SecondOrderFit,
    assemble,
    kind_of,
    kind_of_batch,
    prepare_body,
    solve,
)

__all__ = ["Kind", "MapProblem", "SecondOrderFit", "assemble", "kind_of", "kind_of_batch", "prepare_body", "solve"]
