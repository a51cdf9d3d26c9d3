"""Hands, head and feet, fitted after the body: each part is a small problem of its own, with the body as it was found.

`part_cues` gathers the points of a scene, `part_body` prepares a model, `part_points` places points and their derivatives, and
`part_fit` solves all people of a batch in one compiled program, which runs only where somebody shows such points.
"""
