"""How things are stored and read back, whatever they are.

| module | what is in it |
|---|---|
| `settings` | configs as frozen dataclasses: `get_config()` files, `--set`, JSON, content hash |
| `fit_files` | fitted scenes (`people.fitted.SceneFit`) as `.npz` |
| `files`, `file_names` | files that appear complete or not at all; file names from names in data |
| `npz` | `.npz` files of strangers, checked before they are believed |
| `codecs`, `wire` | compact masks and depth maps; protocol buffers without TensorFlow |
| `torch_files`, `dataframe_pickles` | PyTorch checkpoints and data frames, read without executing a pickle |
| `moved_modules` | where the modules of version 0.1 are now |
"""
