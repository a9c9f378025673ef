#!/usr/bin/env bash
# Runs the training command as a Slurm job, one process per node with all its GPUs.
#
#   launch/slurm.sh [--dry_run] NODES [SBATCH OPTIONS ...] -- --config=... --workdir=... [...]
#   launch/slurm.sh 4 --partition=gpu --gpus-per-node=8 --time=24:00:00 -- --config=configs/math.py \
#       --workdir=/shared/run1
#
# Shortly before the job's time limit, Slurm sends SIGTERM. The run then saves and exits with 75,
# and the job requeues itself. --workdir must be on a file system that all nodes share. --dry_run
# prints the job.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
nodes=${1:-}
options=()
if [[ "$nodes" =~ ^[0-9]+$ ]]; then
  shift
  while (($#)) && [[ "$1" != "--" ]]; do
    options+=("$1")
    shift
  done
fi
if [[ "${1:-}" != "--" ]] || (($# < 2)); then
  echo "usage: launch/slurm.sh [--dry_run] NODES [SBATCH OPTIONS ...] -- --config=... [...]" >&2
  exit 2
fi
shift
together=()
((nodes > 1)) && together=(--coordinator=auto)
command=$(printf '%q ' "$root/.venv/bin/python" -m cipo_jax.main "${together[@]}" "$@")
# Under Slurm, JAX gives each task one GPU unless it is told which ones are visible.
job="#!/usr/bin/env bash
srun --kill-on-bad-exit=0 bash -c 'JAX_LOCAL_DEVICE_IDS=\$(seq -s, 0 \$((\${SLURM_GPUS_ON_NODE:-1} - 1))) exec \"\$@\"' run $command
status=\$?
if ((status == 75)); then scontrol requeue \"\$SLURM_JOB_ID\"; fi
exit \$status"
submit=(sbatch --nodes="$nodes" --ntasks-per-node=1 --signal=TERM@120 --requeue "${options[@]}")
if $dry_run; then
  printf '%q ' "${submit[@]}"
  printf '<<END\n%s\nEND\n' "$job"
else
  "${submit[@]}" <<<"$job"
fi
