"""One body's parameters as another's: Anny's people as SMPL-X's, and back.

| module | what it does |
|---|---|
| `convertible` | a body as the conversion sees it: points, turns of bones, limits, priors |
| `closest_points` | the nearest points of a surface |
| `pairing` | which points and bones of two bodies correspond, found once by laying one upon the other at rest |
| `convert_people` | people, many at once, by least squares |
| `convert_fits` | fits, scene after scene |
"""
