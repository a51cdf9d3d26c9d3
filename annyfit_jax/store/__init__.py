"""The one store of resumable work: units of scenes, written by any worker, committed by one writer, on a disk or in a bucket.

| module | what is in it |
|---|---|
| `locations` | files and folders at plain paths, `file://`, `s3://`, `gs://`, `memory://`: whole puts, fetches, fingerprints |
| `mirrors` | files and folders of buckets as local files, for readers of files |
| `holds` | one driver at a time in a bucket |
| `plan` | what is to be stored, how it is cut into units, and how a later run with more or changed input goes on |
| `units` | a store's units: content under hashed names, commit records, metadata of the finished dataset |
| `datasets` | a whole dataset written by one call, on any engine |
| `parts` | work whose units leave files of their own names: exports, predictions |
| `work_progress`, `work_status` | how far a work is: lines that it writes, and what `annyfit status` makes of them |
| `faults` | the write boundaries by name, for tests |

A store is a folder with

    job.json or plan.json                        what is stored, of what, with which settings (`plan`)
    names-00000.json ...                         the names of the scenes, in the order of the store; a file per growth
    units/00003-0f1e2d3c4b5a6978.array_record    the records of a unit, named by unit and content
    done/00003.json                              the commit record of the unit: its file, checksum, counts

and, once every unit is done, the files under the names that TFDS expects, with `dataset_info.json` and `features.json`.

Why nothing is lost and nothing is there twice: a unit's file appears whole and under a name that depends on its content, so
that no late or repeated attempt can spoil another. It counts only once the one writer has put its commit record. A unit without
a record, or whose file is not the one that the record names, or whose input has changed since, is done again."""
