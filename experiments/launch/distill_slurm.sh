#!/bin/bash
# The training of a distillation on N machines of a SLURM cluster: ViT-L at 672 pixels, 600 000 steps, as the config says.
#
#     run() { python -m experiments.distill --config=experiments/configs/distill.py --output=$OUTPUT "$@"; }
#     sets="--set=stream.path=... --set=synthetic.path=... --set=held_out.path=... --set=checkpoint=..."
#     run $sets --steps=scenes,start                                                       # one GPU
#     sbatch --nodes=8 experiments/launch/ray_slurm.sh fit --input=$OUTPUT/start/all_cues --output=$OUTPUT/fits/fits \
#         --config=experiments/configs/annyfit_plus.py                                     # many
#     run $sets --steps=fit,select                                                         # finds the fits done
#     OUTPUT=... sbatch --nodes=4 experiments/launch/distill_slurm.sh $sets                # this file
#     run $sets --steps=evaluate,report                                                    # one GPU
#
# A batch is split over all devices: config.batch must be a multiple of their number, e.g. --set=train.batch=64. Preempted or out
# of time, it is put back into the queue and goes on to the sample; on wrong usage (2) it is not.
#SBATCH --job-name=distill
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=256G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=distill-%j.log
#SBATCH --open-mode=append

set -u
: "${OUTPUT:?folder of the distillation, on a shared file system}"
CONFIG="${CONFIG:-experiments/configs/distill.py}"
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
PYTHON="${PYTHON:-.venv/bin/python}"

# One process per machine with all its devices; jax.distributed takes the machines from SLURM's variables. In the background, so
# that this shell is awake to pass SIGTERM on.
srun --kill-on-bad-exit=1 "$PYTHON" -m experiments.distill --config="$CONFIG" --output="$OUTPUT" --steps=train --multihost "$@" &
child=$!
trap 'kill -TERM "$child"' TERM INT
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done

if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
