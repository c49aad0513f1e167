#!/bin/bash
#SBATCH --job-name=lmcraft --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00 --requeue --signal=TERM@120
# sbatch recipes/launch/slurm.sh recipes/books.yaml [arguments of `lmcraft run`]
# Store, cache and sources lie on a file system that all nodes see: LMCRAFT_STORE, LMCRAFT_CACHE.
set -euo pipefail
export RDZV=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 10000))
srun --kill-on-bad-exit=1 bash -c 'exec torchrun \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$RDZV" --rdzv-id="$SLURM_JOB_ID" \
  -m lmcraft run "$@"' lmcraft "$@"
