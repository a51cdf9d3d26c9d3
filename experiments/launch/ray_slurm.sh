#!/bin/bash
# One job of annyfit on N machines of a SLURM cluster: a Ray cluster for as long as the job runs.
#
#     sbatch --nodes=8 experiments/launch/ray_slurm.sh fit --input=s3://bucket/cues --output=s3://bucket/fits
#     sbatch --nodes=2 experiments/launch/ray_slurm.sh precompute --images=/data/photos --output=/data/cues
#     annyfit status --output=s3://bucket/fits
#
# Submit it again, with any number of machines, to go on where it stopped. Out of time or preempted it exits with 75 and is put back
# into the queue; where it cannot write (74) or is used wrongly (2) it is not. Folders must be on a disk that all machines share, or
# in a bucket.
#SBATCH --job-name=annyfit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=128G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=annyfit-%j.log
#SBATCH --open-mode=append

set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
PYTHON="${PYTHON:-.venv/bin/python}"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export RAY_ADDRESS="$head:6379" RAY_USAGE_STATS_ENABLED=0
export PATH="$(dirname "$(realpath -s "$PYTHON")"):$PATH"  # where `ray` is, which `symmetric-run` calls

# `ray symmetric-run` starts Ray on every machine, runs the command on the first one, and ends Ray. Only that one process drives the
# job, so what SLURM says about its place among many is taken away. In the background, so that this shell can pass SIGTERM on.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  env -u SLURM_PROCID "$PYTHON" -m "experiments.$1" "${@:2}" --engine=ray --address="$RAY_ADDRESS" &
child=$!
trap 'kill -TERM "$child"' TERM INT
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done

if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
