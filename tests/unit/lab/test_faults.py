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

"""Tests of causing faults and taking them back; real ones are functional."""

import contextlib
import json
from unittest import mock

from oslotest import base
import rados

from lab import ceph
from lab import faults
from lab import process


class Monitor:
    """Takes monitor commands, and keeps the ratios as Ceph does."""

    def __init__(self):
        self.ratios = {'nearfull': .85, 'backfillfull': .9, 'full': .95}
        self.objects = set()
        self.hangs = False

    def mon_command(self, text, data, timeout=None):
        command = json.loads(text)
        if command['prefix'] == 'osd dump':
            return 0, json.dumps({'full_ratio': self.ratios['full']
                                  }).encode(), ''
        kind = command['prefix'].split('-')[1]
        self.ratios[kind] = command['ratio']
        return 0, b'', ''

    def append(self, name, data):
        if self.ratios['full'] < .5:
            raise rados.NoSpace('full')
        self.objects.add(name)

    def remove_object(self, name):
        if name not in self.objects:
            raise rados.ObjectNotFound(name)
        self.objects.remove(name)

    def set_osdmap_full_try(self):
        pass

    def conf_set(self, name, value):
        pass

    @contextlib.contextmanager
    def open_ioctx(self, pool):
        yield self

    def stat(self, name):
        if self.hangs:
            raise rados.TimedOut('no answer')
        raise rados.ObjectNotFound(name)


class FaultsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.monitor = Monitor()
        self.cluster = mock.MagicMock(spec=ceph.Cluster)
        self.cluster.name = 'dcn0'
        self.cluster.link = mock.Mock()
        self.cluster.mon, self.cluster.osd = 'mon', 'osd'
        for method in (self.cluster.connect, self.cluster.pool):
            method.return_value.__enter__.return_value = self.monitor

    def test_one_daemon_or_all(self):
        for kind, method, daemons in (
                ('kill', self.cluster.kill, ()),
                ('kill-mon', self.cluster.kill, ('mon',)),
                ('kill-osd', self.cluster.kill, ('osd',)),
                ('freeze', self.cluster.freeze, ()),
                ('freeze-mon', self.cluster.freeze, ('mon',)),
                ('freeze-osd', self.cluster.freeze, ('osd',))):
            faults.cause(self.cluster, kind)
            method.assert_called_once_with(*daemons)
            method.reset_mock()

    def test_restart(self):
        faults.cause(self.cluster, 'restart')
        self.assertEqual([mock.call.stop(), mock.call.start()],
                         self.cluster.method_calls)

    def test_heal_takes_back_everything(self):
        faults.heal(self.cluster, timeout=7)
        self.cluster.link.heal.assert_called_once_with()
        self.assertEqual(
            [mock.call.thaw(), mock.call.start(7)],
            [call for call in self.cluster.method_calls
             if call[0] in ('thaw', 'start')])
        # It was not full: nothing is changed.
        self.assertEqual(.95, self.monitor.ratios['full'])

    def test_healed_in_vain(self):
        self.monitor.hangs = True
        error = self.assertRaises(process.LabError, faults.heal, self.cluster)
        self.assertIn('dcn0', str(error))

    def test_full_and_healed(self):
        faults.cause(self.cluster, 'fill')
        ratios = [self.monitor.ratios[kind]
                  for kind in ('nearfull', 'backfillfull', 'full')]
        self.assertEqual(sorted(ratios), ratios)
        self.assertLess(ratios[-1], .01)
        faults.heal(self.cluster)
        self.assertGreater(self.monitor.ratios['full'], .9)
        # What it was tried with is gone.
        self.assertEqual(set(), self.monitor.objects)

    def test_without_a_link(self):
        self.cluster.link = None
        error = self.assertRaises(process.LabError, faults.cause,
                                  self.cluster, 'cut')
        self.assertIn('dcn0', str(error))
        self.assertIn('--wan', str(error))
        faults.heal(self.cluster)

    def test_cut(self):
        faults.cause(self.cluster, 'cut')
        self.cluster.link.cut.assert_called_once_with()
