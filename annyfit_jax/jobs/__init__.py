"""Jobs: a whole collection of scenes, fitted by any number of processes that may be killed at any time.

A job is a source of scenes, a config and an output folder, cut into units of consecutive scenes. The folder holds

    job.json                                      what is fitted, with what; a rerun must agree (`job_plan`)
    fits-train.array_record-00003-of-00040 ...    a shard per unit: one record per scene (`job_rows`)
    done/00003.json                               written last: checksum and counts of a finished shard (`ledger`)
    claims/00003.json                             who works on a unit just now (`claims`)
    progress-00000-of-00004.jsonl                 a line every few seconds per process (`progress`)

and, once every unit is done (`finish`), `dataset_info.json` and `features.json`, with which the folder is a dataset for
`tfds.builder_from_directory` and Grain, `people.jsonl`, `scenes_set_aside.jsonl`, `config.json` and `finished.json`.

Why a kill loses nothing: a shard appears under its name only complete and flushed to disk; its entry in `done/`, written after
that, holds its checksum. A unit without an entry, or whose shard does not have that checksum, is fitted again, in the same
batches and therefore with the same result, however many processes there are.
"""
