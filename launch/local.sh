#!/usr/bin/env bash
# Runs the training command on this machine (CPU, GPUs, or the TPU of a single-host VM) until it is
# done.
#
#   launch/local.sh [--dry_run] --config=configs/demo.py --workdir=runs/demo [more arguments]
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
if (($# == 0)); then
  echo "usage: launch/local.sh [--dry_run] --config=... [more arguments]" >&2
  exit 2
fi
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
command=("$root/launch/until_done.sh" "$python" -m cipo_jax.main "$@")
$dry_run || exec "${command[@]}"
execute "${command[@]}"
