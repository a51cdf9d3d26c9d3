"""The costs of the MAP objective, one line each; to add one, see `costs.base`."""

from annyfit_jax.fit.second_order.costs import gravity, metric_depth, points, pose, shape, touch
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
    metric_depth.METRIC_DEPTH,
    metric_depth.DISTANCE,
    metric_depth.ORDER,
    gravity.GRAVITY,
    gravity.GROUND_PLANE,
    gravity.FACE,
    touch.CONTACTS,
)

__all__ = ["COSTS", "Cost"]
