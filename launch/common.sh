#!/usr/bin/env bash
# What the launch scripts share. They source this file before they read their arguments.
# shellcheck disable=SC2034  # the scripts that source it use these

dry_run=false
if [[ "${1:-}" == "--dry_run" ]]; then
  dry_run=true
  shift
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=${TMPDIR:-/tmp}/cipo_jax-$$.tar.gz
environment=()  # NAME=VALUE of the training command on another machine

# Runs a command; with --dry_run, prints it.
execute() {
  if $dry_run; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Packs the checkout's last commit into $archive.
pack_checkout() {
  execute git -C "$root" archive --format=tar.gz --output="$archive" HEAD
}

# Prints the commands for a machine that has that archive in its home directory. They install it
# with the extra $1 and start the training command with the other arguments, so that it survives the
# connection.
install_and_start() {
  local extra=$1
  shift
  local start=nohup
  ((${#environment[@]} == 0)) || start="nohup env $(printf '%q ' "${environment[@]}")"
  cat <<END
set -e
mkdir -p cipo_jax && tar -xzf cipo_jax.tar.gz -C cipo_jax && cd cipo_jax
python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[$extra]'
$start launch/until_done.sh .venv/bin/python -m cipo_jax.main $(printf '%q ' "$@")>> run.log 2>&1 &
echo started; tail -n 20 run.log
END
}
