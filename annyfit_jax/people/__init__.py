"""What is known of people before any fit, and their bodies after it.

| module | what is in it |
|---|---|
| `scene` | `Scene` and `BodyParameters`: what every reader gives and every program takes |
| `fitted` | `SceneFit`: the fitted people of a scene, each field declared once |
| `camera` | the pinhole projection and intrinsics from a field of view |
| `words` | words for age and gender as anchors of the phenotypes |
| `anatomy` | how far joints bend, and a relaxed pose |
| `dense_points` | the 138 points on the skin |
| `body_meshes` | posed vertices, keypoints and heights of fitted people |
"""
