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

"""Native and green threads of a patched process that log at the same time."""

from __future__ import annotations

import importlib.util
import logging
import os
import pathlib
import subprocess
import sys
import textwrap
import unittest

import fixtures
from oslotest import base

from glance_dcn.runtime import logs

# The lock of the module, or of a handler, is held by a native thread while one
# of each kind logs.
_SCRIPT = """
    import eventlet
    eventlet.monkey_patch()
    eventlet.hubs.use_hub('poll')
    from eventlet import patcher
    from glance_dcn.runtime import green
    from glance_dcn.runtime import logs
    from glance_dcn.runtime import native
    import logging
    import os
    import sys
    import threading
    import time

    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    # As with an oslo.log that makes no locks for both kinds of threads.
    logging._lock = threading.RLock()
    handler = logging.getLogger().handlers[0]
    handler.lock = threading.RLock()
    assert logs._is_green(logging._lock)
    if 'unshared' not in sys.argv:
        green.start()
        assert not logs._is_green(logging._lock)
        assert not logs._is_green(handler.lock)
    really_sleep = patcher.original('time').sleep

    def hold(lock, held):
        with lock:
            held.put(True)
            really_sleep(.3)

    for lock in (logging._lock, handler.lock):
        for number in range(3):
            held, done = native.Queue(), native.Queue()
            native.start('holds', hold, lock, held)
            native.get(held, 60)
            # A logger that has asked for no level yet takes the first lock.
            eventlet.spawn(lambda: done.put(logging.getLogger(
                'green.%d' % number).info('said')))
            native.start('logs', lambda: done.put(logging.getLogger(
                'native.%d' % number).info('said')))
            for _thread in range(2):
                native.get(done, 20)
    if os.fork():
        assert os.wait()[1] == 0
    logging.getLogger('after').info('said')
    print('fine')
    """


@unittest.skipUnless(importlib.util.find_spec('eventlet'),
                     'eventlet is not there')
class TestPatched(base.BaseTestCase):

    def run_script(self, *args: str) -> subprocess.CompletedProcess[str]:
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = folder / 'script.py'
        path.write_text(textwrap.dedent(_SCRIPT))
        return subprocess.run(
            [sys.executable, '-W', 'ignore', path, *args], cwd=folder,
            timeout=300, env={**os.environ,
                              'PYTHONPATH': os.pathsep.join(sys.path)},
            capture_output=True, text=True)

    def test_nobody_waits_for_ever(self) -> None:
        done = self.run_script()
        self.assertEqual('fine\nfine\n', done.stdout, done.stderr)
        self.assertEqual(14, done.stderr.count(':said'))


class TestOthers(base.BaseTestCase):

    def test_nothing_is_changed(self) -> None:
        before = logging._lock
        logs.share_locks()
        self.assertIs(before, logging._lock)
        self.assertFalse(logs._is_green(before))
