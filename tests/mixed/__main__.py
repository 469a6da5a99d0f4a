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

"""Stores of other types beside ours: ``python -m tests.mixed``.

A Glance has stores of type dcn at two sites, and one in a real Swift, one in a
real Cinder whose volumes are in a third cluster, or both and one in a folder.
Images are imported into all at once and converted on the way, copied to and
fro, and deleted, while all sites answer and while one does not.
"""

import argparse
import importlib.metadata
import sys
import unittest

from tests.functional.api import base
from tests import labs

_CASES = 'tests.mixed.cases'
_VERSIONS = ('glance', 'glance-store', 'swift', 'python-swiftclient',
             'cinder', 'python-cinderclient', 'os-brick')


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.mixed', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        'names', nargs='*', metavar='NAME',
        help='classes of %s, or tests of theirs (default: all)' % _CASES)
    labs.add_arguments(result)
    return result


def go(args):
    """Run the tests, and show what became of them.

    :returns: whether a test failed
    """
    print(', '.join('%s %s' % (name, importlib.metadata.version(name))
                    for name in _VERSIONS), flush=True)
    names = ['%s.%s' % (_CASES, name) for name in args.names] or [
        '%s.%s' % (_CASES, name)
        for name in ('SwiftTest', 'CinderTest', 'AllTest')]
    with labs.running(args, base.SITES, 'dcn-mixed.'):
        suite = unittest.defaultTestLoader.loadTestsFromNames(names)
        result = unittest.TextTestRunner(verbosity=2).run(suite)
    return not result.wasSuccessful()


def main(argv=None):
    """Run the command line and return the exit code: 1 if a test failed."""
    args = parser().parse_args(argv)
    return labs.exit_status('mixed', lambda: go(args))


if __name__ == '__main__':
    sys.exit(main())
