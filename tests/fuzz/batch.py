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

"""Examines many changed files in one limited process.

``python -m tests.fuzz.batch SEEDS SEED FIRST LAST FOLDER``. Each is examined
by what the program for one file runs, under the CPU time that it would have: a
timer ends the process. Before each the number is written, after it a line of
JSON, so that it is known which one ended it.
"""

import json
import os
import pathlib
import pickle
import signal
import sys
import time

from glance_dcn.images import child
from glance_dcn.images import inspection
from tests.fuzz import changes


def main():
    """Examine the files of the command line."""
    seeds, seed, first, last, folder = sys.argv[1:]
    files = pickle.loads(pathlib.Path(seeds).read_bytes())
    path = os.path.join(folder, 'image-%d' % os.getpid())
    # What inspectors say of each is not what this is about.
    sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    try:
        for number in range(int(first), int(last)):
            print(number, end=' ', flush=True)
            name, changed = changes.make(files, int(seed), number)
            changed.write(path)
            print(json.dumps(dict(_examined(path), name=name)), flush=True)
            os.unlink(path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


def _examined(path):
    with open(path, 'rb') as file:
        status = os.fstat(file.fileno())
        limit = inspection.limits_of(status).cpu
        # Without a handler, it ends a process that does not listen, too.
        signal.setitimer(signal.ITIMER_PROF, limit)
        begun = time.process_time()
        answer = child.examine(file)
        used = time.process_time() - begun
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {'answer': answer, 'cpu': used, 'limit': limit,
            'length': status.st_size}


if __name__ == '__main__':
    main()
