"""The progress of any long program from its output folder, on a disk or in a bucket.

    annyfit status --output=OUT              # done, failed by reason, rate, time left, who is at work
    annyfit status --output=OUT --watch=10   # again every 10 seconds until it is finished
    annyfit status --output=OUT --json
    annyfit status --output=OUT --digest     # checksum of all rows of a job, whatever their order
    annyfit status --output=OUT --compare=OTHER

OUT is the --output of annyfit fit, precompute, synthesize, pack, predict, export or train.

Exit codes: 0, 2 where nothing is known of OUT (--watch waits for it); --compare: 1 where rows differ.
"""

from __future__ import annotations

import json
import time

from absl import flags

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Work": (
                flags.DEFINE_string("output", None, "What the program was given as --output, also in a bucket (s3://, gs://)."),
            ),
            "What is printed": (
                flags.DEFINE_bool("json", False, "Print JSON."),
                flags.DEFINE_float(
                    "watch", 0.0, "Seconds between prints until all is finished; 0 prints once.", lower_bound=0.0
                ),
                flags.DEFINE_bool("digest", False, "Print the digest of all finished rows."),
                flags.DEFINE_string("compare", None, "Folder of another run of the job of annyfit fit, to compare rows with."),
            ),
        },
        required=("output",),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.jobs import job_status
    from annyfit_jax.store.plan import StoreError

    if FLAGS.digest:
        answer = job_status.digest(FLAGS.output)
        text = f"{answer['digest']}  {answer['scenes']} scenes, {answer['people']} people"
        print(json.dumps(answer) if FLAGS.json else text)
        return
    if FLAGS.compare:
        answer = job_status.compare(FLAGS.output, FLAGS.compare)
        print(json.dumps(answer) if FLAGS.json else job_status.describe_comparison(answer))
        if answer["rows_differ"]:
            raise SystemExit(1)
        return
    while True:
        try:
            state, describe = job_status.state_of(FLAGS.output)
        except StoreError as error:
            if not FLAGS.watch:
                raise
            print(f"nothing yet: {error}", flush=True)
        else:
            print(json.dumps(state) if FLAGS.json else describe(state), flush=True)
            if not FLAGS.watch or state["finished"]:
                return
        time.sleep(FLAGS.watch)


if __name__ == "__main__":
    program.run("status")
