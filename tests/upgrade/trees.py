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

"""Releases of the package, each in a folder that Python imports it from."""

import configparser
import io
import pathlib
import re
import shutil
import tarfile

from lab import process

_ROOT = pathlib.Path(__file__).parents[2]
#: What the trees can be made of, beside the name of a commit.
CURRENT, AGAIN, LATER = 'current', 'again', 'later'
# Where the versions of records are.
_VERSIONS = {'glance_dcn/ceph/record_format.py': 'VERSION',
             'glance_dcn/ceph/records.py': '_VERSION',
             'glance_dcn/imports/journal.py': '_VERSION'}


def make(folder, name):
    """Make the tree of a release, and return its path.

    :param folder: where it is made
    :param name: ``current``, this one; ``again``, the same as a release of
        its own; ``later``, the same with the next version of all records; or
        a commit of this repository
    :raises lab.process.LabError: if there is no such commit
    """
    tree = pathlib.Path(folder).resolve() / name.replace('/', '_')
    tree.mkdir(parents=True)
    if name in (CURRENT, AGAIN, LATER):
        shutil.copytree(_ROOT / 'glance_dcn', tree / 'glance_dcn',
                        ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(_ROOT / 'setup.cfg', tree)
    else:
        path = tree / 'tree.tar'
        process.run(['git', '-C', _ROOT, 'archive', '--output', path, name,
                     'glance_dcn', 'setup.cfg'])
        with tarfile.open(path) as archive:
            archive.extractall(tree)
    if name == LATER:
        for path, constant in _VERSIONS.items():
            _raise_version(tree / path, constant)
    _describe(tree, name)
    return tree


def version(name):
    """Return what the workers of a tree say is their release."""
    return '0+%s' % re.sub('[^a-z0-9]', '', name.lower())


def _raise_version(path, constant):
    text, count = re.subn(
        r'^(%s = )(\d+)$' % constant,
        lambda match: '%s%d' % (match[1], int(match[2]) + 1),
        path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise process.LabError('%s has no %s' % (path, constant))
    path.write_text(text)


def _describe(tree, name):
    """Write what stevedore reads: the entry points, as pip would."""
    config = configparser.ConfigParser()
    config.read_string((tree / 'setup.cfg').read_text())
    points = io.StringIO()
    for group, lines in config['entry_points'].items():
        points.write('[%s]\n%s\n' % (group, lines.strip()))
    info = tree / ('glance_dcn-%s.dist-info' % version(name))
    info.mkdir()
    (info / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: glance-dcn\nVersion: %s\n'
        % version(name))
    (info / 'entry_points.txt').write_text(points.getvalue())
