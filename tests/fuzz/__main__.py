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

"""Changed image files, thousands of them: ``python -m tests.fuzz``.

Sound files of every format are changed at random, and inspected: none may
take more than its limits, and every outcome is a format, or a refusal that
says why. A sample of them goes the way of an import: a process for each, and
then qemu-img. The exit code is 1 if that is not so.
"""

import argparse
import random
import sys
import tempfile
import time

from tests.fuzz import run


def parser():
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog='python -m tests.fuzz', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('--seed', type=int, default=None,
        help='the same seed, the same changes (default: any)')
    add('--files', type=int, default=10000, metavar='N',
        help='how many (default: %(default)s)')
    add('--sample', type=int, default=None, metavar='N',
        help='how many of them go the way of an import (default: one of 20)')
    return result


def main(argv=None):
    """Run the command line and return the exit code."""
    args = parser().parse_args(argv)
    if args.seed is None:
        args.seed = random.randrange(1 << 32)
    if args.sample is None:
        args.sample = args.files // 20
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='dcn-fuzz.') as folder:
        fuzz = run.Run(folder, args.seed)
        fuzz.examine(0, args.files)
        fuzz.sample(random.Random(args.seed).sample(
            range(args.files), min(args.sample, args.files)))
    print('seed %d\n%s' % (args.seed, run.summary(
        fuzz.result, time.monotonic() - begun)))
    return 1 if fuzz.result.wrong else 0


if __name__ == '__main__':
    sys.exit(main())
