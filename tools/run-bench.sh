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

# Measures stock Glance and glance_dcn side by side; see bench/README.rst.
# As root, for the cases over a WAN link:
#
#   tools/run-bench.sh [--virtual-size 10GiB] [--runs 3] [--cases A,B] ...
#   tools/run-bench.sh absent [--runs 3] ...       what absent sites cost
#   tools/run-bench.sh scale [--stores 3,200] ...  what many sites cost

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$top/tools/install-deps.sh"
# Not changing the folder: relative paths are the caller's.
module=bench
if [ "${1:-}" = absent ]; then
    module=bench.absent
    shift
fi
PYTHONPATH=$top exec "$top/.venv/bin/python" -m "$module" "$@"
