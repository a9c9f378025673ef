#!/usr/bin/env bash
# Runs a command until it is done, and restarts it after interruptions.
#
#   launch/until_done.sh python -m cipo_jax.main --config=configs/math.py --workdir=/mnt/disk/run1
#
# Exit status of the command   what happens
#   0                          done
#   2                          a mistake in config or input: not restarted
#   75                         asked to end (SIGTERM), state saved: restarted
#   anything else              restarted, at most RETRIES times in a row (default 10)
# SIGTERM to this script is passed on, and the command is then not restarted. The script exits with
# the command's last status.
set -uo pipefail

if (($# == 0)); then
  echo "usage: launch/until_done.sh COMMAND [ARGUMENTS ...]" >&2
  exit 2
fi
ended=false
child=0
trap 'ended=true; ((child)) && kill -TERM "$child" 2>/dev/null' TERM
failures=0
while true; do
  "$@" &
  child=$!
  while true; do
    wait "$child"
    status=$?
    # A signal to this script ends the wait before the command has ended.
    kill -0 "$child" 2>/dev/null || break
  done
  if $ended || ((status == 0 || status == 2)); then
    exit "$status"
  fi
  if ((status == 75)); then
    failures=0
  elif ((++failures > ${RETRIES:-10})); then
    exit "$status"
  fi
  echo "until_done: ended with $status; starting it again" >&2
  sleep "${PAUSE:-10}"
done
