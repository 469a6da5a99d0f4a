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


"""The guest's kernel and its modules, out of a package."""

import gzip
import logging
import lzma
import pathlib
import re
import tempfile

from lab.bootimage import errors
from lab.bootimage import programs

LOG = logging.getLogger(__name__)

#: The kernel: a metapackage that depends on the current release.
KERNEL_PACKAGE = 'linux-image-cloud-amd64'


def _kernel_name(package, run=programs.run):
    """Follow a kernel metapackage to the package that holds the kernel.

    :param str package: a Debian package name
    :param run: runs a program and returns its output
    :returns str: a Debian package name
    """
    try:
        listing = run(['apt-cache', 'depends', package])
    except errors.BuildError as exc:
        raise errors.BuildError('apt does not know the package %s; is apt-get '
                                'update needed? %s' % (package, exc)) from exc
    for line in listing.splitlines():
        key, _, value = line.strip().partition(': ')
        if key == 'Depends' and value.startswith('linux-image-'):
            return value
    return package


def download(package, work, tree, run=programs.run):
    """Fetch the kernel's package and unpack it.

    :param str package: a Debian package name
    :param pathlib.Path work: where to put it; a package found there from an
              earlier call is used again
    :param pathlib.Path tree: directory to unpack it to
    :param run: runs a program and returns its output
    """
    name = _kernel_name(package, run)
    found = sorted(work.glob(name + '_*.deb'),
                   key=lambda path: path.stat().st_mtime)
    if found:
        deb = found[-1]
        LOG.info('using %s', deb)
    else:
        with tempfile.TemporaryDirectory(dir=work) as part:
            # The sandbox user may not write here: without this option apt
            # warns about that.
            try:
                run(['apt-get', '-q', '-o', 'APT::Sandbox::User=root',
                     'download', name], cwd=part)
            except errors.BuildError as exc:
                raise errors.BuildError('cannot download the kernel; is '
                                        'apt-get update needed? %s'
                                        % exc) from exc
            fetched = sorted(pathlib.Path(part).glob('*.deb'))
            if not fetched:
                raise errors.BuildError('apt-get download %s left no file'
                                        % name)
            deb = fetched[0].rename(work / fetched[0].name)
    try:
        run(['dpkg-deb', '-x', str(deb), str(tree)])
    except errors.BuildError:
        deb.unlink()
        raise


def find_kernel(tree):
    """Find the kernel and its modules in an unpacked package.

    :param pathlib.Path tree: a directory with boot/ and lib/modules/
    :returns tuple: release (str), kernel file and module directory (both
              pathlib.Path); the newest if there are several
    """
    kernels = sorted(
        pathlib.Path(tree).glob('boot/vmlinuz-*'),
        key=lambda path: [int(part) if part.isdigit() else 0
                          for part in re.split(r'\D+', path.name)])
    for kernel in reversed(kernels):
        release = kernel.name[len('vmlinuz-'):]
        for lib in ('lib', 'usr/lib'):
            modules = pathlib.Path(tree) / lib / 'modules' / release
            if modules.is_dir():
                return release, kernel, modules
    raise errors.BuildError('no kernel with its modules under %s' % tree)


def read_module(path):
    """Read a kernel module, compressed or not.

    :param pathlib.Path path: a .ko, .ko.xz or .ko.gz file
    :returns bytes: the plain module
    """
    data = path.read_bytes()
    if path.suffix == '.xz':
        return lzma.decompress(data)
    if path.suffix == '.gz':
        return gzip.decompress(data)
    if path.suffix != '.ko':
        raise errors.BuildError('cannot read the kernel module %s' % path)
    return data


def module_dependencies(data):
    """List the modules that a kernel module says it needs.

    :param bytes data: the plain module
    :returns list: names, with underscores
    """
    found = re.search(rb'\0depends=([^\0]*)\0', b'\0' + data)
    names = found.group(1).decode('ascii') if found else ''
    return [name.replace('-', '_') for name in names.split(',') if name]


def collect_modules(directory, wanted):
    """Read modules and all they depend on.

    What is built into the kernel, or unknown to it, is left out: a kernel
    may have either form of a driver, or do without it.

    :param pathlib.Path directory: lib/modules/RELEASE of a kernel package
    :param wanted: module names, with underscores
    :returns dict: name to plain module (bytes), dependencies first
    """
    files = {}
    for path in sorted(directory.rglob('*.ko*')):
        files[path.name.split('.')[0].replace('-', '_')] = path
    modules = {}

    def add(name, chain):
        if name in modules or name in chain:
            return
        if name not in files:
            LOG.debug('%s is no module of %s', name, directory.name)
            return
        data = read_module(files[name])
        for other in module_dependencies(data):
            add(other, chain + (name,))
        modules[name] = data

    for name in wanted:
        add(name, ())
    return modules
