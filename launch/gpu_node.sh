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

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
if (($# < 2)); then
  echo "usage: launch/gpu_node.sh [--dry_run] USER@HOST --config=... [more arguments]" >&2
  exit 2
fi
host=$1
shift

pack_checkout
execute scp "$archive" "$host:cipo_jax.tar.gz"
execute ssh "$host" "$(install_and_start cuda "$@")"
