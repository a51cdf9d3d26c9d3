#!/bin/bash
# One job of experiments.fit on many GPUs of a SLURM cluster: every array task takes every n-th unit.
#
#     INPUT=/data/cues OUTPUT=/data/fits sbatch experiments/launch/slurm_array.sh
#     INPUT=/data/cues OUTPUT=/data/fits sbatch --array=0-31 experiments/launch/slurm_array.sh
#     python -m experiments.status --output=/data/fits
#
# Submit it again, with any --array, to go on where it stopped. A task that is preempted or reaches its time limit exits with 75
# and is put back into the queue; one that cannot write (74) or is used wrongly (2) is not.
#SBATCH --job-name=annyfit
#SBATCH --array=0-9
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=annyfit-%A_%a.log
#SBATCH --open-mode=append

set -u
: "${INPUT:?folder or file to fit}" "${OUTPUT:?folder of the job, on a shared file system}"
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
PYTHON="${PYTHON:-.venv/bin/python}"

# In the background, so that this shell is awake to pass SIGTERM on. Index and count come from SLURM_ARRAY_TASK_*.
# --steal: tasks that are done early help the others.
"$PYTHON" -m experiments.fit --input="$INPUT" --output="$OUTPUT" --steal "$@" &
child=$!
trap 'kill -TERM "$child"' TERM INT
wait "$child"; code=$?
# `wait` also returns when the trap has run; the program itself may still be finishing its batch.
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done

if [ "$code" -eq 75 ] && [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
