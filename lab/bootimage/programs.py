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


"""Programs and files that building and booting need on the host."""

import logging
import os
import pathlib
import subprocess

from lab.bootimage import errors

LOG = logging.getLogger(__name__)

#: Debian packages needed to build an image.
BUILD_PACKAGES = ('busybox-static', 'mtools', 'qemu-utils', 'syslinux')
#: Debian packages needed to boot one (qemu-block-extra: from a Ceph pool).
BOOT_PACKAGES = ('qemu-block-extra', 'qemu-system-x86')
#: Everything this module needs on the host. The kernel is not among them.
PACKAGES = tuple(sorted(BUILD_PACKAGES + BOOT_PACKAGES))


def run(command, cwd=None, **environment):
    """Run one program to its end.

    :param list command: argument list
    :param cwd: directory to run it in (str or path)
    :param environment: further environment variables (str)
    :returns str: what the program printed
    :raises BuildError: when it is missing or failed
    """
    LOG.debug('running %s', command)
    try:
        return subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors='replace', cwd=cwd,
            env=dict(os.environ, LC_ALL='C', **environment)).stdout
    except FileNotFoundError as exc:
        raise errors.BuildError('%s is missing; packages needed: %s' % (
            command[0], ' '.join(BUILD_PACKAGES))) from exc
    except subprocess.CalledProcessError as exc:
        raise errors.BuildError('%s failed with status %d: %s' % (
            ' '.join(command), exc.returncode,
            (exc.stderr or exc.stdout).strip()[-2000:])) from exc


def first_existing(paths, package):
    """Find a file that a package supplies.

    :param paths: candidates, the preferred first
    :param str package: the package to name if there is none
    :returns pathlib.Path: the first that exists
    """
    for path in map(pathlib.Path, paths):
        if path.is_file():
            return path
    raise errors.BuildError('none of %s exists; install the package %s' % (
        ', '.join(paths), package))
