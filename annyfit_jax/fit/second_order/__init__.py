"""Fits by Levenberg-Marquardt: the MAP objective of `annyfit_plus`, or the last stage of the released one.

    body = second_order.prepare_body(model, fit_body, config)
    problem, variables = second_order.assemble(prepared_scenes, config)
    fit = jax.jit(second_order.solve, static_argnames="config")(config, body, problem, variables)

| module | what |
|---|---|
| `linear_plan.py`, `columns.py`, `jacobian.py` | analytic Jacobian of contracted points, normal equations in dense blocks |
| `solve.py`, `lm.py` | the solver: damping, bounds, scene unknowns by a Schur complement |
| `map_objective.py`, `small_terms.py`, `contacts.py`, `robust.py` | the MAP energy and its quadratic model |
| `frozen.py` | noise scales, visible surface and sizes, estimated between rounds |
| `map_body.py`, `map_cues.py`, `placement.py` | the body, the cues and the closed-form start |
| `released.py` | the released objective by the same solver |
| `uncertainty.py` | standard deviations from the curvature |
"""

from annyfit_jax.fit.second_order.solve import MapProblem, SecondOrderFit, assemble, prepare_body, solve

__all__ = ["MapProblem", "SecondOrderFit", "assemble", "prepare_body", "solve"]
