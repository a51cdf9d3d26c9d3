"""The progress of a job of `annyfit fit`, or a comparison of its rows with those of another job.

    annyfit status --output=OUT              # done, failed and skipped by reason, left, rate, who is at work
    annyfit status --output=OUT --watch=10   # again every 10 seconds until it is finished
    annyfit status --output=OUT --json
    annyfit status --output=OUT --digest     # checksum of all rows, whatever their order
    annyfit status --output=OUT --compare=OTHER

Exit codes: 0, 2 where OUT is not a job; --compare: 1 where rows differ.
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
            "Job": (
                flags.DEFINE_string("output", None, "Folder of the job, also in a bucket (s3://, gs://)."),
            ),
            "What is printed": (
                flags.DEFINE_bool("json", False, "Print JSON."),
                flags.DEFINE_float(
                    "watch", 0.0, "Seconds between prints until the job is finished; 0 prints once.", lower_bound=0.0
                ),
                flags.DEFINE_bool("digest", False, "Print the digest of all finished rows."),
                flags.DEFINE_string("compare", None, "Folder of another run of the job, to compare rows with."),
            ),
        },
        required=("output",),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.jobs import job_status

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
        state = job_status.status(FLAGS.output)
        print(json.dumps(state) if FLAGS.json else job_status.describe(state), flush=True)
        if not FLAGS.watch or state["finished"]:
            return
        time.sleep(FLAGS.watch)


if __name__ == "__main__":
    program.run("status")
