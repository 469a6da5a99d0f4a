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


"""The command that builds a boot image."""

import argparse
import sys

from lab.bootimage import builder
from lab.bootimage import errors
from lab.bootimage import guest


def main(argv=None):
    """Build an image from the command line.

    :param list argv: arguments; None: those of the process
    :returns int: exit status
    """
    parser = argparse.ArgumentParser(
        prog='python -m lab.bootimage',
        description='Build a small disk image that really boots.')
    parser.add_argument('output', metavar='OUTPUT', help='file to write')
    parser.add_argument('--marker', default=builder.DEFAULT_MARKER,
                        help='what the guest prints (%(default)s)')
    parser.add_argument('--size', type=int, default=builder.DEFAULT_SIZE,
                        metavar='BYTES',
                        help='size of the guest\'s disk (%(default)s)')
    parser.add_argument('--format', choices=('qcow2', 'raw'),
                        default='qcow2', help='(%(default)s)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='keep the kernel\'s package here')
    parser.add_argument('--boot', action='store_true',
                        help='boot the image and show its console')
    parser.add_argument('--timeout', type=float, default=guest.DEFAULT_TIMEOUT,
                        metavar='SECONDS',
                        help='for the boot (%(default)s)')
    options = parser.parse_args(argv)
    try:
        made = builder.build(options.output, options.work_dir, options.marker,
                             options.size, options.format)
        print('%s: kernel %s, virtual size %d bytes, file %d bytes, on disk '
              '%d bytes, built in %.1f s' % (
                  made.path, made.kernel, made.virtual_size, made.file_size,
                  made.data_size, made.seconds), flush=True)
        if options.boot:
            seen = guest.boot(made.path, made.marker, options.timeout,
                              on_line=lambda line: print(line, flush=True))
            print('booted in %.1f s' % seen.seconds)
    except (errors.BootImageError, OSError) as exc:
        print('error: %s' % exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
