"""How a job of experiments.fit gets on, or how its rows compare.

    python -m experiments.status --output=OUT              # done, failed and skipped by reason, left, rate, who is at work
    python -m experiments.status --output=OUT --watch=10   # again every 10 seconds until it is finished
    python -m experiments.status --output=OUT --json
    python -m experiments.status --output=OUT --digest     # checksum of all rows, whatever their order
    python -m experiments.status --output=OUT --compare=OTHER

Exit codes: 0, 2 where OUT is not a job; --compare: 1 where rows differ.
"""

from __future__ import annotations

import json
import time

from absl import app, flags, logging

from annyfit_jax.jobs import job_status
from annyfit_jax.jobs.job_plan import JobError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("output", None, "Folder of the job.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.DEFINE_float(
        "watch", 0.0, "Print again every so many seconds until the job is finished; 0 = once.", lower_bound=0.0
    )
    flags.DEFINE_bool("digest", False, "Print the digest of all finished rows.")
    flags.DEFINE_string("compare", None, "Folder of another run of the job, to compare rows with.")
    flags.DEFINE_float("lease_s", 120.0, "As given to experiments.fit: a claim is stale after so many seconds.")


def main(_: list[str]) -> None:
    if not FLAGS.output:
        raise app.UsageError("--output is missing")
    try:
        run()
    except JobError as error:
        logging.error("%s", error)
        raise SystemExit(2) from None


def run() -> None:
    """The program, after flag parsing. Raises JobError."""
    if FLAGS.digest:
        found = job_status.digest(FLAGS.output)
        print(
            json.dumps(found)
            if FLAGS.json
            else f"{found['digest']}  {found['scenes']} scenes, {found['people']} people"
        )
        return
    if FLAGS.compare:
        found = job_status.compare(FLAGS.output, FLAGS.compare)
        print(json.dumps(found) if FLAGS.json else _describe_comparison(found))
        if found["rows_differ"]:
            raise SystemExit(1)
        return
    while True:
        state = job_status.status(FLAGS.output, FLAGS.lease_s)
        print(json.dumps(state) if FLAGS.json else job_status.describe(state), flush=True)
        if not FLAGS.watch or state["finished"]:
            return
        time.sleep(FLAGS.watch)


def _describe_comparison(found: dict) -> str:
    lines = [
        f"{found['rows_differ']} scenes differ in people, keys or status; {found['people']} fitted people compared"
    ]
    lines += [f"{name:12s} largest difference {value:.3g}" for name, value in found["largest_difference"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    app.run(main)
