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

# Runs a command in the root folder of another distribution, as the process
# that it is called as:
#
#   tools/in-root.sh ROOT COMMAND...      as root
#
# This repository and the folder for temporary files are at the same paths
# there. The mounts end with the command and what it started.

set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(realpath "$1")
export TMPDIR=${TMPDIR:-/tmp}
# shellcheck disable=SC2016
exec unshare --mount bash -c '
    set -eu
    root=$1 here=$PWD
    # "ip netns" wants its root folder to be a mount.
    mount --bind "$root" "$root"
    for folder in "$2" "$TMPDIR"; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    for folder in /proc /sys /dev; do
        mount --rbind "$folder" "$root$folder"
    done
    # Those that are trusted here, for what is installed there.
    mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
    shift 2
    exec chroot "$root" env -C "$here" "$@"' in-root "$root" "$top" "${@:2}"
