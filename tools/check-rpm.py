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

"""Check the RPM of glance-dcn, and the root that it was installed into.

The exit status is 0 if all is as it should be; otherwise it is 1, and each
thing that is not has a line.
"""

import argparse
import configparser
from importlib import metadata
import json
import os
import pathlib
import re
import stat
import subprocess
import sys

from packaging import requirements
from packaging import utils

_TOP = pathlib.Path(__file__).resolve().parents[1]
_PROGRAM = 'usr/bin/glance-dcn'
# Besides the package itself; var/lib/rpm is the database of RPM.
_ELSEWHERE = re.compile(
    r'usr/bin/glance-dcn'
    r'|usr/share/man/man1/glance-dcn\.1(\.gz)?'
    r'|usr/share/man/man5/glance-dcn-sites\.5(\.gz)?'
    r'|usr/share/bash-completion/completions/glance-dcn'
    r'|usr/share/(doc|licenses)/python3?-glance-dcn[^/]*/.+'
    r'|var/lib/rpm/.+')
# What other packages have to provide besides those of requirements.txt.
_OF_DISTRIBUTION = {'python3-rados', 'python3-rbd', 'qemu-img', 'util-linux',
                    'python3dist(glance)'}
# Run by an interpreter that has all libraries, but glance_dcn from the root.
_LOAD = """
import json
import sys
import stevedore
found = {}
for namespace in json.loads(sys.argv[1]):
    found[namespace] = {
        extension.name: sys.modules[extension.plugin.__module__].__file__
        for extension in stevedore.ExtensionManager(
            namespace, on_load_failure_callback=lambda *args: None)
        if extension.entry_point.value.startswith('glance_dcn.')}
print(json.dumps(found))
"""


def main():
    """Run all checks, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('package', help='file of python3-glance-dcn')
    parser.add_argument('--root', type=pathlib.Path, required=True,
                        help='folder that it was installed into')
    parser.add_argument('--work', type=pathlib.Path, required=True,
                        help='folder for temporary files, that no file of '
                             'the package may name')
    args = parser.parse_args()
    folder = site(args.root)
    environment = libraries(folder, args.work / 'libraries')
    failed = False
    for title, problems in (
            ('files', check_files(args.root, folder, args.work)),
            ('entry points', check_entry_points(folder, environment)),
            ('program', check_program(args.root, environment)),
            ('dependencies', check_dependencies(args.package))):
        print('  %-13s %s' % (title, 'FAILED' if problems else 'ok'))
        for problem in problems:
            failed = True
            print('    %s' % problem)
    return 1 if failed else 0


def site(root):
    """Return the one site-packages below a root."""
    found = list(root.glob('usr/lib*/python3*/site-packages'))
    if len(found) != 1:
        sys.exit('%d folders site-packages in %s' % (len(found), root))
    return found[0]


def libraries(folder, links):
    """Return an environment with the libraries of this interpreter.

    :param folder: site-packages in which glance_dcn is to be found
    :param links: folder that is made, with a link to each library that this
        interpreter has, but glance_dcn
    """
    links.mkdir(exist_ok=True)
    for path in map(pathlib.Path, sys.path):
        if path.name != 'site-packages':
            continue
        for library in path.iterdir():
            link = links / library.name
            if 'glance_dcn' not in library.name and not link.is_symlink():
                link.symlink_to(library)
    return dict(os.environ, PYTHONPATH='%s:%s' % (folder, links),
                PYTHONDONTWRITEBYTECODE='1', PYTHONWARNINGS='ignore',
                # stevedore remembers there what it found.
                XDG_CACHE_HOME=str(links.parent / 'cache'))


def check_files(root, folder, work):
    """Yield what is missing, too much, or tells where it was built."""
    tracked = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard',
         'glance_dcn'], cwd=_TOP, check=True, text=True,
        stdout=subprocess.PIPE).stdout.split('\n')
    wanted = {name for name in tracked if name and (_TOP / name).exists()}
    installed = {str(path.relative_to(folder))
                 for path in folder.rglob('*') if path.is_file()}
    code = {name for name in installed
            if name.startswith('glance_dcn/') and not name.endswith('.pyc')}
    problems = ['%s is missing' % name for name in sorted(wanted - code)]
    problems += ['%s is too much' % name for name in sorted(code - wanted)]
    for path in sorted(root.rglob('*')):
        name = str(path.relative_to(root))
        if not path.is_file():
            continue
        if folder not in path.parents and not _ELSEWHERE.fullmatch(name):
            problems.append('%s does not belong there' % name)
        elif not name.startswith('var/') and str(work).encode() in (
                path.read_bytes()):
            problems.append('%s names %s' % (name, work))
        if path.stat().st_mode & 0o022:
            problems.append('%s may be written to by others' % name)
    own = root / 'etc/glance-dcn'
    if not own.is_dir() or stat.S_IMODE(own.stat().st_mode) != 0o750:
        problems.append('etc/glance-dcn is no folder of mode 0750')
    if not (root / _PROGRAM).stat().st_mode & 0o001:
        problems.append('%s cannot be run by all' % _PROGRAM)
    first = (root / _PROGRAM).read_text().splitlines()[0]
    if not re.fullmatch(r'#!/usr/bin/python3( -s\w*)?', first):
        problems.append('%s is for %s' % (_PROGRAM, first))
    return problems


def check_entry_points(folder, environment):
    """Return what stevedore does not find, with that root alone to find it."""
    setup = configparser.ConfigParser()
    setup.read(_TOP / 'setup.cfg')
    wanted = {(namespace, *(part.strip() for part in line.split('=')))
              for namespace, lines in setup['entry_points'].items()
              for line in lines.strip().splitlines()}
    there = {(point.group, point.name, point.value)
             for found in metadata.distributions(path=[str(folder)])
             for point in found.entry_points}
    problems = ['%s: %s = %s is missing' % point
                for point in sorted(wanted - there)]
    problems += ['%s: %s = %s is not of setup.cfg' % point
                 for point in sorted(there - wanted)]
    plugins = {point for point in wanted if point[0] != 'console_scripts'}
    loaded = json.loads(subprocess.run(
        [sys.executable, '-S', '-c', _LOAD,
         json.dumps(sorted({point[0] for point in plugins}))],
        # The folder that it is run in is where it looks first.
        cwd='/', env=environment, check=True, stdout=subprocess.PIPE).stdout)
    for namespace, name, _value in sorted(plugins):
        where = loaded[namespace].get(name)
        if where is None:
            problems.append('%s: %s is not loaded' % (namespace, name))
        elif folder not in pathlib.Path(where).parents:
            problems.append('%s: %s is loaded from %s'
                            % (namespace, name, where))
    return problems


def check_program(root, environment):
    """Return what goes wrong when the program is run."""
    run = subprocess.run(
        [sys.executable, '-S', str(root / _PROGRAM), '--help'],
        env=environment, check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    if run.returncode or not run.stdout.startswith('usage: glance-dcn'):
        return ['glance-dcn --help ends with %d:\n%s'
                % (run.returncode, run.stdout)]
    return []


def check_dependencies(package):
    """Return how the package's requirements differ from the sources'."""
    lines = subprocess.run(
        ['rpm', '--query', '--package', '--requires', package], check=True,
        text=True, stdout=subprocess.PIPE).stdout.splitlines()
    # Generated ones name the version of Python, python3.9dist(...), and say
    # once more what python3dist(...) says.
    has = {}
    for line in lines:
        name, _space, bound = line.partition(' ')
        if not re.match(r'rpmlib\(|python\(abi\)|python3\.\d+dist|/', name):
            has[name] = bound
    wanted = dict.fromkeys(_OF_DISTRIBUTION)
    for text in (_TOP / 'requirements.txt').read_text().splitlines():
        text = text.partition('#')[0].strip()
        if text:
            wanted.update([as_rpm(requirements.Requirement(text))])
    problems = ['%s is missing' % name for name in sorted(wanted.keys()
                                                          - has.keys())]
    problems += ['%s is too much' % name for name in sorted(has.keys()
                                                            - wanted.keys())]
    problems += [
        '%s %s: requirements.txt has %s' % (name, has[name], bound)
        for name, bound in sorted(wanted.items())
        if bound is not None and name in has and has[name] != bound]
    return problems


def as_rpm(requirement):
    """Return a requirement as name and bound of RPM.

    :param requirement: packaging.requirements.Requirement, with lower bound
    """
    (bound,) = requirement.specifier
    # RPM takes 9.1.0 for later than 9.1, as which the generator of Python
    # dependencies writes it.
    number = re.sub(r'(\.0)+$', '', bound.version)
    return ('python3dist(%s)' % utils.canonicalize_name(requirement.name),
            '%s %s' % (bound.operator, number))


if __name__ == '__main__':
    sys.exit(main())
