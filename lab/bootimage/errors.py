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


"""What can go wrong with a boot image."""

_TAIL_LINES = 25


class BootImageError(Exception):
    """Something about the boot image went wrong."""


class BuildError(BootImageError):
    """The image could not be built."""


class BootError(BootImageError):
    """The guest did not come up.

    :ivar str console: everything read from the console before the failure
    """

    def __init__(self, message, console=''):
        super().__init__(message + console_tail(console))
        self.console = console


class BootTimeout(BootError):
    """The marker did not appear in time."""


def console_tail(text, lines=_TAIL_LINES):
    """Format the end of a console's text for an error message.

    :param str text: console text
    :param int lines: how many lines to keep
    :returns str: the last lines, indented and led by a heading; for a
              silent console a remark that it was silent
    """
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not kept:
        return '\n  (nothing was printed on the console)'
    return '\n  the console ended with:\n' + '\n'.join(
        '    ' + line for line in kept[-lines:])
