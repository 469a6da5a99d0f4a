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

# Runs all functions on combinations of Glance, Ceph and Python, one after the
# other, each on clusters of its own, and writes the outcomes into the guide's
# table, doc/source/install/combinations.csv:
#
#   tools/run-matrix.sh                              all: a day; as root
#   tools/run-matrix.sh glance-26-eventlet           one
#   tools/run-matrix.sh --rooms store ceph-sid-sid   some tests
#   tools/run-matrix.sh --help                       which there are
#
# It needs mmdebstrap for the Ceph of other suites of Debian.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh
exec .venv/bin/python -m tests.matrix "$@"
