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

"""Checks of a cluster that can be made without one."""

import errno
import json
import os
import pathlib
import types

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.ceph import trial
from glance_dcn.checks import access
from glance_dcn.checks import runner
from glance_dcn.checks import subjects
from glance_dcn.sites import cluster_identity
from glance_dcn.status import cluster
from tests.unit.checks import fakes

FSID = '5f2b9a54-3c1e-4d0a-9a43-0c7a6d1f0001'
OTHER = '5f2b9a54-3c1e-4d0a-9a43-0c7a6d1f0002'
_CONF = """\
[global]
fsid = %s
mon_host = 127.0.0.1:1
[client.glance]
keyring = %s
"""


def _identity(fsid):
    return cluster_identity.ClusterIdentity(fsid, 0)


class ClusterTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self.path = self.folder / 'edge.conf'
        self.keyring = self.folder / 'edge.client.glance.keyring'
        self.write(self.path, _CONF % (FSID, self.keyring))
        self.write(self.keyring, '[client.glance]\nkey = AQ==\n', 0o640)

    def write(self, path, text, mode=0o644):
        path.write_text(text)
        path.chmod(mode)

    def site(self, **fields):
        return subjects.Site(cluster.Target(**dict({
            'name': 'edge', 'pool': 'images', 'conf_file': str(self.path),
            'user': 'glance'}, **fields)), access.Access())

    def look(self, check, subject=None, **known):
        """Return the level, and the message."""
        finding = fakes.check(check, **known).run(subject or self.site())
        return finding.level, finding.text


class TestRoom(ClusterTestCase):

    def refused(self, exc):
        def refuse():
            raise exc
        site = self.site()
        site.client = types.SimpleNamespace(get_cluster_stats=refuse)
        return self.look('room', site)

    def test_may_not_ask(self):
        self.assertEqual(('ok', 'the user may not ask'), self.refused(
            rados.PermissionDeniedError('no', errno=errno.EACCES)))

    def test_no_answer(self):
        level, text = self.refused(rados.TimedOut('hung', errno=110))
        self.assertEqual('warn', level)
        self.assertIn('the free space cannot be read (', text)


class TestFiles(ClusterTestCase):

    def test_good(self):
        self.assertEqual(('ok', str(self.path)), self.look('conf'))
        self.assertEqual(('ok', '%s, mode 640' % self.keyring),
                         self.look('keyring'))

    def test_no_conf(self):
        self.path.unlink()
        level, text = self.look('conf')
        self.assertEqual('fail', level)
        self.assertIn('is not there', text)

    def test_conf_that_anybody_may_write(self):
        self.path.chmod(0o666)
        self.assertEqual('warn', self.look('conf')[0])

    def test_conf_without_fsid(self):
        self.write(self.path, '[global]\nmon_host = 127.0.0.1:1\n')
        level, text = self.look('conf')
        self.assertEqual('warn', level)
        self.assertIn('names no fsid', text)

    def test_conf_that_is_none(self):
        self.write(self.path, '[global\nfsid')
        level, text = self.look('conf')
        self.assertEqual('fail', level)
        self.assertIn('is not usable', text)

    def test_no_keyring(self):
        self.keyring.unlink()
        level, text = self.look('keyring')
        self.assertEqual('fail', level)
        self.assertIn('client.glance', text)

    def test_keyring_for_everybody(self):
        self.keyring.chmod(0o644)
        level, text = self.look('keyring')
        self.assertEqual('warn', level)
        self.assertIn('mode 644', text)

    def test_others_are_asked_as_themselves(self):
        if os.geteuid():
            # Whoever is not root is told what he himself may do.
            self.keyring.chmod(0)
            self.assertEqual('fail', self.look('keyring')[0])
            return
        self.keyring.chmod(0o600)
        # Both were made for this test alone.
        for folder in (self.folder, self.folder.parent):
            folder.chmod(0o711)
        site = self.site()
        site.access = access.Access('nobody')
        self.assertEqual('ok', self.look('conf', site)[0])
        level, text = self.look('keyring', site)
        self.assertEqual('fail', level)
        self.assertIn('by user nobody (Permission denied)', text)


class TestConnecting(ClusterTestCase):

    def site(self, error=None, **fields):
        site = super().site(**fields)
        site.error = error
        return site

    def test_refused(self):
        level, text = self.look('login', self.site(errors.Refused(
            'edge', 'the cluster refuses client.glance', 'see')))
        self.assertEqual('fail', level)
        self.assertIn('refuses client.glance', text)

    def test_another_cluster(self):
        site = self.site(errors.WrongCluster('edge', 'it is another', 'see'))
        self.assertEqual('ok', self.look('login', site)[0])
        self.assertEqual('fail', self.look('fsid', site)[0])

    def test_not_that_of_the_sites_file(self):
        site = self.site(fsid=OTHER)
        site.fsid = FSID
        level, text = self.look('fsid', site)
        self.assertEqual('fail', level)
        self.assertIn(OTHER, text)

    def test_some_monitors_are_silent(self):
        def connect():
            site.client = types.SimpleNamespace(
                mon_command=lambda *args: (0, json.dumps(dump), ''))
        dump = {'mons': [
            {'name': name, 'public_addrs': {'addrvec': [
                {'addr': place} for place in places]}}
            for name, places in (('a', ['a:1']), ('b', ['b:1', 'c:2']))]}
        site = self.site()
        site.connect = connect
        level, text = self.look(
            'monitors', site, answers=lambda host, port, timeout:
            None if host == 'c' else 'Connection refused')
        self.assertEqual('warn', level)
        self.assertIn('1 of 2 monitors cannot be reached: a (Conn', text)

    def test_the_right_that_is_missing_is_named(self):
        def refuse(ioctx, going_on):
            raise trial.Refused('clone', OSError(1, 'not permitted'))
        site = self.site()
        site.ioctx = object()
        finding = fakes.check('rights', sweep=lambda ioctx: None,
                              try_all=refuse).run(site)
        self.assertIn('client.glance may not clone images in pool images',
                      finding.text)
        self.assertIn("osd 'profile rbd pool=images'", finding.remedy)


class TestComparison(ClusterTestCase):

    def others(self, *places, kept=None):
        found = []
        for name, fsid, pool in places:
            site = self.site(name=name, pool=pool)
            site.fsid = fsid
            found.append(site)
        site = self.site()
        site.fsid = FSID
        return self.look('own-pool', subjects.Sites(site, found, kept))

    def test_good(self):
        self.assertEqual('ok', self.others(('a', OTHER, 'images'),
                                           kept=_identity(FSID))[0])

    def test_twin(self):
        level, text = self.others(('a', OTHER, 'images'),
                                  ('b', FSID, 'images'))
        self.assertEqual('fail', level)
        self.assertIn('of site b already', text)

    def test_same_cluster(self):
        self.assertEqual('warn', self.others(('a', FSID, 'others'))[0])

    def test_rebuilt(self):
        finding_level, text = self.others(kept=_identity(OTHER))
        self.assertEqual('fail', finding_level)
        self.assertIn('1970-01-01', text)

    def test_all_checks_are_known_here(self):
        self.assertIn('own-pool', runner.registry.CHECKS)
