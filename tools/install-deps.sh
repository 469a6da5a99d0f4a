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

# Installs what the lab and the tests need, and nothing that is there already:
# the distribution's packages that bindep.txt names, and a virtual environment
# in .venv. May be run again at any time.
#
#   tools/install-deps.sh [PROFILE] ...     further profiles of bindep.txt

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The distribution's own Python: its Ceph bindings are built for it.
python=/usr/bin/python3
venv=.venv
policy=/usr/sbin/policy-rc.d

say() { printf '%s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        say "Please install: $*"
        exit 1
    fi
    say "Installing $*"
    # Tests start what they need by themselves: no service of a package is
    # started.
    if ! [ -e "$policy" ]; then
        trap 'as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "$@" >&2
}

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_packages python3-venv
fi
# A virtual environment that was not finished is begun anew.
if ! [ -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

wanted=$(cat requirements.txt test-requirements.txt doc/requirements.txt \
    lab/requirements.txt lab/constraints.txt setup.cfg pyproject.toml \
    2>/dev/null | sha256sum)

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"
}

pip install -c lab/constraints.txt bindep
missing=$("$venv/bin/bindep" --brief test "$@" || true)
if [ -n "$missing" ]; then
    # Word splitting is meant: one package a line.
    # shellcheck disable=SC2086
    install_packages $missing
fi

tools/link-ceph.sh "$venv/bin/python"

if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    say 'Installing Python packages into .venv'
    # Not from pip's cache: uWSGI is linked to the interpreter it was built
    # with, which may have been another one of the same version.
    pip install --no-cache-dir -c lab/constraints.txt uWSGI
    pip install -c lab/constraints.txt -r requirements.txt \
        -r test-requirements.txt -r doc/requirements.txt \
        -r lab/requirements.txt
    pip install --no-deps -e .
    printf '%s\n' "$wanted" > "$venv/installed"
fi
