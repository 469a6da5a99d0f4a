#!/usr/bin/env bash
# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

# Runs every test, on clusters of its own:
#
#   tools/run-tests.sh             unit and functional tests
#   tools/run-tests.sh REGEX...    those whose names match (stestr's filters)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh
PATH=$PWD/.venv/bin:$PATH

state=$(mktemp -d "${TMPDIR:-/tmp}/dcn-tests.XXXXXX")
# Tests of what an unprivileged user may read have their files below it; what
# is secret there has a mode of its own.
chmod 711 "$state"
export GLANCE_DCN_LAB=$state/lab TMPDIR=$state
# No test is to fail because the machine is slow or has other work.
export GLANCE_DCN_LAB_PATIENCE=${GLANCE_DCN_LAB_PATIENCE:-3}
# librados and librbd run threads of their own: should a test's process crash,
# it is to be seen where.
export PYTHONFAULTHANDLER=1
finish() {
    if [ -d "$GLANCE_DCN_LAB" ]; then
        python -m lab down --delete || true
    fi
    # What tests started for themselves, should the runner have been killed.
    python -m lab end "$state" || true
    rm -rf "$state"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

printf 'Bringing up the lab\n'
# On MariaDB, as in production: on sqlite, Glance now and then loses what two of
# its threads write at once, and an import never begins.
python -m lab up --database mariadb
# More workers than cores, as most tests wait for clusters most of the time.
workers=${CONCURRENCY:-4}
# Which worker runs what follows from what it took before; where that cannot be
# told, stestr deals the tests out by itself, and says why.
python tools/partition-tests.py deal "$workers" "$@" > "$state/workers.yaml" &&
    set -- --worker-file "$state/workers.yaml" "$@" || true
failed=0
stestr run --concurrency "$workers" "$@" || failed=$?
python tools/count-tests.py
exit "$failed"
