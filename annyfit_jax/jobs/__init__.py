"""Jobs: a whole collection of scenes, fitted in units by one process or by a cluster, which may be killed at any time.

A job is a source of scenes, a config and an output folder: a store (`annyfit_jax.store`) of rows (`job_rows`), one record per
scene, in units of consecutive scenes. The folder also holds `progress.jsonl`, a line every few seconds (`progress`), and, once
every unit is done (`finish`), the metadata with which it is a dataset for `tfds.builder_from_directory` and Grain,
`people.jsonl`, `scenes_set_aside.jsonl`, `config.json` and `finished.json`.

A unit is fitted in the same batches and therefore with the same result, whoever does it and however often.
"""
