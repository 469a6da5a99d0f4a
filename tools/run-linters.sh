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

# Looks at the code without running it:
#
#   tools/run-linters.sh
#
# OpenStack's rules (hacking), ruff, types (mypy), the guide and the release
# notes without a warning, and whether what is generated is as it would be
# generated now.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh
PATH=$PWD/.venv/bin:$PATH
pip --disable-pip-version-check --quiet install -c lab/constraints.txt \
    -r lint-requirements.txt

made=$(mktemp -d "${TMPDIR:-/tmp}/dcn-linters.XXXXXX")
trap 'rm -rf "$made"' EXIT
failed=()

lint() {
    printf 'Running %s\n' "$1"
    "${@:2}" || failed+=("$1")
}

generated() {
    oslo-config-generator \
        --config-file etc/oslo-config-generator/glance-dcn.conf \
        --output-file "$made/glance-dcn.conf.sample" &&
        diff -u etc/glance-dcn.conf.sample "$made/glance-dcn.conf.sample" &&
        python -m glance_dcn.checks.guide "$made/checks.inc" &&
        diff -u doc/source/admin/checks.inc "$made/checks.inc"
}

lint flake8 flake8
lint ruff ruff check bench glance_dcn lab tests tools
lint mypy mypy
lint 'what is generated' generated
lint 'the guide' sphinx-build -q -W --keep-going -b html \
    -d "$made/doctrees" doc/source "$made/html"
lint 'the release notes' reno --quiet lint

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
printf 'no faults were found\n'
