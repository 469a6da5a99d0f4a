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

# Runs the unit tests and a choice of the functional ones on releases of Glance,
# each in a virtual environment of its own, below .releases:
#
#   tools/run-releases.sh                all releases; takes an hour
#   tools/run-releases.sh 26 29          some of them
#   SELECTION=tests/unit/imports/test_*.py tools/run-releases.sh 26   other tests
#
# lab/releases has what is installed with each release.

set -euo pipefail
# A failure inside $(...) is one too.
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh

if [ $# = 0 ]; then
    set -- 26 27 28 29 30 31 32 33
fi
# Not with stestr: functional tests hang in it with Glance 26, which loads
# eventlet.
selection=${SELECTION:-}
if [ -z "$selection" ]; then
    selection='tests/unit/test_*.py'
    for room in ceph cmd engine images imports runtime sites store tasks \
            upstream workers; do
        selection+=" tests/unit/$room/test_*.py"
    done
    for name in conversion direct_copy green mixed_stores standalone \
            stock_fallback workflow; do
        selection+=" tests/functional/api/test_$name.py"
    done
    selection+=" tests/functional/staging/test_eventlet.py"
fi
for release in "$@"; do
    if [ "$release" != 33 ] && ! [ -f "lab/releases/$release.txt" ]; then
        echo "$release is none of the releases: 33 $(cd lab/releases &&
            printf '%s ' [0-9]*.txt | sed 's/\.txt//g')" >&2
        exit 2
    fi
done

state=$(mktemp -d "${TMPDIR:-/tmp}/dcn-releases.XXXXXX")
chmod 711 "$state"
export TMPDIR=$state GLANCE_DCN_KEYSTONE=$PWD/.venv/bin PYTHONFAULTHANDLER=1
finish() {
    .venv/bin/python -m lab end "$state" || true
    rm -rf "$state"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# Prints the folder of a release's environment, and makes it unless it is there.
environment() {
    local release=$1 venv=$PWD/.releases/$1 wanted
    if [ "$release" = 33 ]; then
        # The one that everything else is developed with.
        echo "$PWD/.venv"
        return
    fi
    wanted=$(cat requirements.txt test-requirements.txt setup.cfg \
        pyproject.toml lab/releases/requirements.txt \
        "lab/releases/$release.txt" | sha256sum)
    if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing Glance $release" >&2
        rm -rf "$venv"
        mkdir -p .releases
        /usr/bin/python3 -m venv "$venv"
        tools/link-ceph.sh "$venv/bin/python"
        # Building it takes longer than all the rest, and it is linked to the
        # same interpreter here as there.
        cp .venv/bin/uwsgi "$venv/bin/"
        install_into "$venv" -c "lab/releases/$release.txt" \
            -r requirements.txt -r test-requirements.txt \
            -r lab/releases/requirements.txt
        install_into "$venv" --no-deps -e .
        printf '%s\n' "$wanted" > "$venv/installed"
    fi
    echo "$venv"
}

install_into() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet install \
        "$@" >&2
}

version() { "$1/bin/python" -c \
    "import importlib.metadata as m; print(m.version('$2'))"; }

# Runs the tests in an environment, on a lab of its own.
run() {
    local venv=$1 failed=0
    export GLANCE_DCN_LAB=$state/lab
    export PATH=$venv/bin:$path
    python -m lab up --database mariadb >&2 || failed=1
    if [ "$failed" = 0 ]; then
        # shellcheck disable=SC2086
        python -W ignore tools/run-modules.py $selection \
            | tail -1 || failed=1
    else
        echo 'the lab does not come up'
    fi
    python -m lab down --delete >&2 || true
    return "$failed"
}

path=$PATH
outcome=0
table=$(printf '%-8s %-9s %-13s %s' release glance glance_store tests)
for release in "$@"; do
    venv=$(environment "$release")
    line=$(run "$venv") || outcome=1
    table+=$(printf '\n%-8s %-9s %-13s %s' "$release" \
        "$(version "$venv" glance)" "$(version "$venv" glance_store)" "$line")
done
printf '\n%s\n' "$table"
exit "$outcome"
