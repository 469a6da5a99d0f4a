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

# Runs the tests of stores of other types beside ours: with a real Swift, with
# a real Cinder, and with both and a folder at once:
#
#   tools/run-mixed.sh                all of them
#   tools/run-mixed.sh SwiftTest      one class; or a test, SwiftTest.test_X
#
# What they need is installed into .mixed, see lab/mixed, and RabbitMQ from the
# distribution.

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# os-brick and Cinder do what only root may; where they are root already, they
# need no sudo.
if [ "$(id -u)" != 0 ]; then
    echo "$0: must be run as root" >&2
    exit 2
fi
"$top/tools/install-deps.sh" mixed
venv=$top/.mixed
wanted=$(cd "$top" && cat requirements.txt test-requirements.txt setup.cfg \
    pyproject.toml lab/constraints.txt lab/mixed/*.txt | sha256sum)
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    echo 'Installing Swift and Cinder into .mixed' >&2
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$top/tools/link-ceph.sh" "$venv/bin/python"
    # Building it takes longer than all the rest, and it is linked to the same
    # interpreter here as there.
    cp "$top/.venv/bin/uwsgi" "$venv/bin/"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
    "${pip[@]}" -c "$top/lab/constraints.txt" \
        -c "$top/lab/mixed/constraints.txt" -r "$top/requirements.txt" \
        -r "$top/test-requirements.txt" -r "$top/lab/mixed/requirements.txt"
    "${pip[@]}" --no-deps -e "$top"
    printf '%s\n' "$wanted" > "$venv/installed"
fi
# Not changing the folder: relative paths are the caller's.
PYTHONPATH=$top GLANCE_DCN_KEYSTONE=$top/.venv/bin PATH=$venv/bin:$PATH \
    exec "$venv/bin/python" -W ignore -m tests.mixed "$@"
