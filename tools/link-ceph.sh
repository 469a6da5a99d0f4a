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

# Lends a virtual environment the distribution's rados and rbd, which are not
# on PyPI, and nothing else of the distribution's Python:
#
#   tools/link-ceph.sh PYTHON      the interpreter of the environment

set -euo pipefail
python=$1
distribution=/usr/bin/python3

site=$("$python" -c \
    'import sysconfig; print(sysconfig.get_path("platlib"))')
for module in rados rbd; do
    if ! file=$("$distribution" -c \
        "import $module; print($module.__file__)" 2>/dev/null); then
        echo "$distribution has no module $module: install the package" \
            "python3-$module" >&2
        exit 1
    fi
    ln -sf "$file" "$site/"
    if ! "$python" -c "import $module" 2>/dev/null; then
        echo "$python ($("$python" --version)) cannot load $file, which was" \
            "built for $("$distribution" --version)" >&2
        exit 1
    fi
done
