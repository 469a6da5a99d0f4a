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

# Replaces one Glance worker after the other by another release, while they are
# used, and back, and then compares what Glance says with what is there:
#
#   tools/run-upgrade.sh [--releases main~40,current,later,current] ...

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$top/tools/install-deps.sh"
# Not changing the folder: relative paths are the caller's.
PYTHONPATH=$top exec "$top/.venv/bin/python" -m tests.upgrade "$@"
