#!/usr/bin/env bash
# Runs the training command on a machine with NVIDIA GPUs, over ssh.
#
#   launch/gpu_node.sh [--dry_run] USER@HOST --config=... [more arguments]
#   launch/gpu_node.sh me@gpu1 --config=configs/math.py --workdir=/data/run1
#
# This copies the last commit to the machine, installs it with the cuda extra, and starts the
# command under nohup, so that it survives the connection. The same line again continues the run
# from its newest checkpoint. The run uses all GPUs of the machine, or those in its
# CUDA_VISIBLE_DEVICES, and of their memory the share that XLA_CLIENT_MEM_FRACTION says here, by
# default JAX's 0.75. For several nodes see launch/slurm.sh. Hyperparameters are in configs/, not
# here. --dry_run prints the commands.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
if (($# < 2)); then
  echo "usage: launch/gpu_node.sh [--dry_run] USER@HOST --config=... [more arguments]" >&2
  exit 2
fi
host=$1
shift

share=${XLA_CLIENT_MEM_FRACTION:-}
[[ -z $share ]] || environment=("XLA_CLIENT_MEM_FRACTION=$share")

pack_checkout
execute scp "$archive" "$host:cipo_jax.tar.gz"
execute ssh "$host" "$(install_and_start cuda "$@")"
