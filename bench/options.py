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

"""The command line of the benchmark."""

import argparse
import os
import pathlib
import re
import tempfile

from bench import cases

_UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
_BLOCK = 64 << 10


def size(text):
    """Read a size such as ``2GiB``, ``64M`` or ``1048576``.

    :returns: bytes
    :raises argparse.ArgumentTypeError: for anything else, and for sizes that
        are no multiple of 64 KiB
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?', text)
    if not match:
        raise argparse.ArgumentTypeError('%r is not a size' % text)
    number = int(float(match[1]) * _UNITS[match[2]])
    if not number or number % _BLOCK:
        raise argparse.ArgumentTypeError(
            '%s is not a multiple of 64 KiB' % text)
    return number


def _share(text):
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError('%s is not in (0, 1]' % text)
    return number


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('%s is less than 1' % text)
    return number


def _choice(known):
    def names(text):
        chosen = text.split(',')
        wrong = [name for name in chosen if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(
                '%s: not among %s' % (','.join(wrong), ','.join(known)))
        return [name for name in known if name in chosen]
    return names


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m bench',
        description='Measures stock Glance and glance_dcn side by side on '
                    'real Ceph clusters of this machine. See '
                    'bench/README.rst.')
    add = result.add_argument
    add('--cases', type=_choice(list(cases.NAMES)), metavar='A,B,...',
        default=list(cases.NAMES),
        help='what is measured (default: %s)' % ','.join(cases.NAMES))
    add('--sides', type=_choice(list(cases.SIDES)), metavar='A,B,...',
        default=list(cases.SIDES),
        help='who is measured (default: %s)' % ','.join(cases.SIDES))
    add('--runs', type=_positive, default=1,
        help='how often; the median counts (default: 1)')
    add('--virtual-size', type=size, default=size('2GiB'),
        help='virtual size of the image (default: 2GiB)')
    add('--data-share', type=_share, default=0.1,
        help='share of it that is data (default: 0.1)')
    add('--fragment-size', type=size, default=size('4MiB'),
        help='mean size of its pieces of data (default: 4MiB)')
    add('--small-size', type=size, default=size('64MiB'),
        help='size of the small image, all of it data (default: 64MiB)')
    add('--seed', type=int, default=1,
        help='of the pseudo-random data (default: 1)')
    add('--sites', type=_positive, default=4,
        help='clusters at this machine, the source of copies included '
             '(default: 4)')
    for side in ('stock', 'our'):
        add('--%s-max-parallel' % side, type=_positive, default=1,
            metavar='N', help='max_parallel_stores of that Glance '
                              "(default: 1, as Glance's own)")
    add('--no-verify', dest='verify', action='store_false',
        help='do not compare what was stored with the source')
    add('--timeout', type=_positive, default=1800,
        help='seconds after which one job has failed (default: 1800)')
    add('--state', type=pathlib.Path,
        default=pathlib.Path(tempfile.gettempdir())
        / ('dcn-bench-%d' % os.getuid()),
        help='folder for everything, removed at the end; short, as it holds '
             'sockets (default: %(default)s)')
    add('--json', type=pathlib.Path, metavar='FILE',
        help='write all figures there')
    add('--svg', type=pathlib.Path, metavar='FILE',
        help='write a bar chart there')
    return result


def parse(argv=None):
    """Read the command line."""
    args = parser().parse_args(argv)
    for name in args.cases:
        needed = cases.NAMES[name].sites
        if args.sites < needed:
            parser().error('%s needs --sites %d' % (name, needed))
    if args.fragment_size > args.virtual_size:
        parser().error('a fragment larger than the image')
    return args
