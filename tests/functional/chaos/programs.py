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

"""Programs that bring up a deployment of their own, as tests run them."""

import subprocess

from testtools import content

from lab import process

# Seconds for a program that was told to end to take down what it has up.
_PATIENCE = 60


def run(argv, folder, timeout, **kwargs):
    """Run a program to its end; return its exit status and its output.

    However it ends, no daemon is left that has its pid file below a folder.

    :param timeout: seconds
    :raises subprocess.TimeoutExpired: if it takes longer
    """
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, **kwargs) as program:
        try:
            out, _err = program.communicate(timeout=timeout)
        finally:
            _end(program)
            process.end_all(folder)
    return program.returncode, out


def text_of(path):
    """Return a log as a detail of a test, empty if there is none."""
    return content.text_content(path.read_text() if path.exists() else '')


def _end(program):
    """End a program that still runs."""
    if program.poll() is not None:
        return
    program.terminate()
    try:
        program.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
