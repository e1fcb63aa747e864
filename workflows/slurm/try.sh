#!/bin/bash
# Tries array.sh and cluster.yaml on a real Slurm of one node, which it sets up in a temporary folder: jobs are killed,
# cancelled and queued again in the middle, and every file is compared with that of a plain local batch.
#
#   workflows/slurm/try.sh              # some minutes
#
# Needs tileseg[test] in the Python that is called python (PYTHON=... for another), and Slurm's programs: on Debian and
# Ubuntu they are installed where this may be done. No systemd, no cgroups, and no running Slurm is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PATH="$PATH:/usr/sbin"
if ! type slurmctld slurmd munged >/dev/null 2>&1; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo 'Slurm is not there; on Debian and Ubuntu: sudo apt-get install slurm-wlm munge' >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurm-wlm munge
fi
TILESEG_TEST_SLURM=1 exec "${PYTHON:-python}" -m pytest tests/workflows/test_slurm.py "$@"
