#!/usr/bin/env bash
# Runs the usual command on a machine with NVIDIA GPUs that is reached by ssh.
#
#   launch/gpu_node.sh [--dry_run] USER@HOST --config=... [more arguments]
#   launch/gpu_node.sh me@gpu1 --config=configs/math.py --workdir=/data/run1
#
# It copies this checkout to the machine, installs it with the cuda extra, and starts the command
# under nohup, so that it survives the connection; the same line again continues the run from its
# newest checkpoint. All GPUs of the machine are used; CUDA_VISIBLE_DEVICES there limits them. For
# several nodes see launch/slurm.sh. No hyperparameters here: they are in configs/. --dry_run prints
# the commands.
set -euo pipefail

dry_run=false
if [[ "${1:-}" == "--dry_run" ]]; then
  dry_run=true
  shift
fi
if (($# < 2)); then
  echo "usage: launch/gpu_node.sh [--dry_run] USER@HOST --config=... [more arguments]" >&2
  exit 2
fi
host=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)

execute() {
  if $dry_run; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

archive=${TMPDIR:-/tmp}/cipo_jax-$$.tar.gz
execute git -C "$root" archive --format=tar.gz --output="$archive" HEAD
execute scp "$archive" "$host:cipo_jax.tar.gz"
arguments=$(printf '%q ' "$@")
execute ssh "$host" "
set -e
mkdir -p cipo_jax && tar -xzf cipo_jax.tar.gz -C cipo_jax && cd cipo_jax
python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[cuda]'
nohup launch/until_done.sh .venv/bin/python -m cipo_jax.main ${arguments}>> run.log 2>&1 &
echo started; tail -n 20 run.log"
