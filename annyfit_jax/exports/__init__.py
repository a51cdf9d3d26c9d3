"""Fits for other programs. Each module writes one format, scene by scene, from what `annyfit_jax.jobs.fit_source` reads.

| module | what it writes |
|---|---|
| `export_fits` | one function in front of the writers: a format by its name |
| `scene_files` | a file per scene: parameters as `.npz`, meshes as `.glb`, `.ply` and `.obj` |
| `usd_file` | the same meshes and the camera as USD |
| `skinned_export`, `skinned_files` | people with bones: skinned `.glb`, `.bvh`; scene after scene, and the writers |
| `rigs` | bones, weights and bind pose of a person |
| `other_programs` | what Blender, Unity and Unreal expect: names, influences, axes, units |
| `glb_writer` | the container of binary glTF |
| `tables` | one Parquet table of all people, for pandas, Polars, DuckDB |
| `coco_export` | one COCO keypoints JSON with the parameters |
| `humandata_export` | HumanData `.npz`, the layout that MMHuman3D and AiOS read |
| `smplx_export` | SMPL-X parameters in the layouts of AMASS and BEDLAM |
| `training_set` | a dataset with an example per image, for TFDS and Grain |
| `exported_people` | what several formats say of a person |
| `field_tables` | the tables of fields in the documents |

No writer holds more than a bounded part of a collection, and every file appears complete or not at all.
"""
