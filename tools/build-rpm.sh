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

# Builds the RPM packages of this checkout, as it is, installs them into an
# empty root, and checks what is there:
#
#   tools/build-rpm.sh [--output DIR] [--without-docs] [--with-tests]
#
# Without --output they are in dist/rpm. With --with-tests the unit tests are run
# in %check, as where the packages are built from the archive. On Fedora and RHEL they are for the
# Python of the system; elsewhere, for trying out, for the one of .venv.

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=$top/dist/rpm
options=()
tests=no

say() { printf '%s\n' "$*"; }

usage() {
    say "usage: tools/build-rpm.sh [--output DIR] [--without-docs] [--with-tests]" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --output)
        [ $# -gt 1 ] || usage
        output=$(realpath -m "$2")
        shift ;;
    --without-docs) options+=(--without docs) ;;
    --with-tests) tests=yes ;;
    *) usage ;;
    esac
    shift
done

cd "$top"
"$top/tools/install-deps.sh"
python=$top/.venv/bin/python
work=$(mktemp -d "${TMPDIR:-/tmp}/dcn-rpm.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# Runs a command whose output is of interest only if it fails.
quietly() {
    if ! "$@" >"$work/log" 2>&1; then
        cat "$work/log" >&2
        say "Failed: $*" >&2
        exit 1
    fi
}

say '[1/4] Making an archive of the sources'
# Changes that are not committed go in too, and nothing of git's index or of
# the checkout is touched: pbr takes what a repository of its own has.
export PBR_VERSION
PBR_VERSION=$("$python" -c \
    'from pbr import packaging; print(packaging.get_version("glance-dcn"))')
mkdir -p "$work/tree" "$work/rpmbuild/SOURCES"
GIT_INDEX_FILE=$work/index git add --all
tree=$(GIT_INDEX_FILE=$work/index git write-tree)
git archive "$tree" | tar -x -C "$work/tree"
(
    cd "$work/tree"
    git init --quiet
    git add --all
    export SKIP_GENERATE_AUTHORS=1 SKIP_WRITE_GIT_CHANGELOG=1
    export SKIP_GENERATE_RENO=1
    quietly "$python" -c "from pbr import build
build.build_sdist('$work/rpmbuild/SOURCES')"
)
archive=$(basename "$work"/rpmbuild/SOURCES/*.tar.gz)

say "[2/4] Building the packages of version $PBR_VERSION"
options+=(--define "_topdir $work/rpmbuild"
    --define "upstream_version $PBR_VERSION"
    --define "source_name ${archive%"-$PBR_VERSION.tar.gz"}")
[ "$tests" = yes ] || options+=(--without tests)
if [ -z "$(rpm --eval '%{?python3_sitelib}')" ]; then
    # No Python packages in the database of RPM, and none of their macros.
    options+=(--nodeps --define "__python3 $python")
fi
quietly rpmbuild -ba "${options[@]}" packaging/python-glance-dcn.spec
# Of an earlier build; whatever else is there is somebody's.
mkdir -p "$output"
rm -f "$output"/python*-glance-dcn-*.rpm
cp "$work"/rpmbuild/SRPMS/*.rpm "$work"/rpmbuild/RPMS/noarch/*.rpm "$output"

say '[3/4] Installing them into an empty root'
root=$work/root
mkdir "$root"
as_root=()
# In a namespace of one's own, root is what the packages need.
[ "$(id -u)" = 0 ] || as_root=(unshare --user --map-root-user)
# What they require cannot be there; check-rpm.py looks at that.
quietly "${as_root[@]}" rpm --root "$root" --dbpath /var/lib/rpm \
    --install --nodeps "$output"/python*-glance-dcn-*.noarch.rpm

say '[4/4] Checking what is there'
"$python" tools/check-rpm.py --root "$root" --work "$work" \
    "$output"/python3-glance-dcn-*.noarch.rpm
say "The packages are in $output:"
for package in "$output"/python*-glance-dcn-*.rpm; do
    say "  $(basename "$package")"
done
