"""The costs of the MAP objective, one line each; to add one, see `costs.base`."""

from annyfit_jax.fit.second_order.costs import depth, gravity, points, pose, shape, touch
from annyfit_jax.fit.second_order.costs.base import Cost

COSTS: tuple[Cost, ...] = (
    points.KEYPOINTS,
    points.DENSE,
    pose.REFERENCE,
    pose.POSE_MIXTURE,
    pose.JOINT_LIMITS,
    shape.WORDS,
    shape.ANTHROPOMETRY,
    shape.MEASURED_HEIGHT,
    depth.METRIC_DEPTH,
    depth.DISTANCE,
    depth.ORDER,
    gravity.GRAVITY,
    gravity.GROUND_PLANE,
    gravity.FACE,
    touch.CONTACTS,
)

__all__ = ["COSTS", "Cost"]
