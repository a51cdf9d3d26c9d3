"""Synthetic scenes with exact truth, made by the body model.

Two generators of `annyfit_jax.people.scene.Scene`, both seeded per scene:

| | `Generator(Recipe)`, `plain.py` | `world.World(seed, WorldConfig)` |
|---|---|---|
| picture, masks, depth map | none | rendered |
| people | calibrated phenotypes, plain postures | ages in years, heights and masses of the WHO tables, families and groups |
| on the ground | lowest point of each | contacts of the posture: soles, seat, hands and knees |
| who hides whom | capsules around limbs | z-buffer |
| noise of the cues | that of the shared development scenes | `world_config.py`: three presets, every parameter settable |
"""

from annyfit_jax.synthetic.plain import COCO_SHARES, GENERATOR_VERSION, Generator, Recipe

__all__ = ["COCO_SHARES", "GENERATOR_VERSION", "Generator", "Recipe"]
