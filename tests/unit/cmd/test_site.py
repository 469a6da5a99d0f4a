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

import argparse
import contextlib
import io
import json
from unittest import mock

import fixtures
import glance_store
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.cmd import site
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import site as sites
from tests import runtimes


class TestSite(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.site = mock.Mock(spec=sites.Site, fsid='fsid-one', pool='images',
                              open_pool=mock.MagicMock())
        self.site.name = 'edge'
        self.useFixture(runtimes.Runtime())
        kind = cluster_identity.ClusterIdentities
        self.identities = mock.Mock(spec=kind)
        process.put(self.identities, kind)
        self.useFixture(fixtures.MonkeyPatch(
            'glance_store.get_store_from_store_identifier', self.find))

    def find(self, store):
        if store != 'edge':
            raise glance_store.UnknownScheme(scheme=store)
        return mock.Mock(site=self.site)

    def run_command(self, *argv):
        """Return the exit status and what is printed."""
        parser = argparse.ArgumentParser()
        site.register(parser.add_subparsers())
        args = parser.parse_args(['site', *argv])
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            return args.run(args), output.getvalue()

    def test_show(self):
        self.assertEqual((0, 'edge: up, fsid fsid-one, pool images\n'),
                         self.run_command('show', 'edge'))

    def test_show_one_that_is_away(self):
        self.site.open_pool.side_effect = errors.Unreachable(
            'edge', 'no answer', 'look')
        self.site.health = health.Health(health.DOWN)
        status, output = self.run_command('show', 'edge')
        self.assertEqual(1, status)
        self.assertIn('edge: down: store edge: no answer; look', output)

    def test_accept(self):
        self.identities.accept.return_value = 'old', 'new'
        status, output = self.run_command('accept', 'edge')
        self.assertEqual((0, 'edge: fsid new is accepted; it was old\n'),
                         (status, output))
        self.identities.accept.assert_called_once_with(self.site)

    def test_accept_one_that_is_away(self):
        self.identities.accept.side_effect = errors.Unreachable(
            'edge', 'no answer', 'look')
        status, output = self.run_command('accept', 'edge')
        self.assertEqual(3, status)
        self.assertIn('no answer', output)

    def run_for_json(self, *argv):
        """Return the exit status and what is printed as JSON."""
        status, output = self.run_command(*argv, '--format', 'json')
        return status, json.loads(output)

    def test_show_as_json(self):
        self.assertEqual(
            (0, {'store': 'edge', 'state': 'up', 'fsid': 'fsid-one',
                 'pool': 'images', 'error': None}),
            self.run_for_json('show', 'edge'))
        self.site.open_pool.side_effect = errors.Unreachable(
            'edge', 'no answer', 'look')
        self.site.health = health.Health(health.DOWN)
        self.assertEqual(
            (1, {'store': 'edge', 'state': 'down', 'fsid': 'fsid-one',
                 'pool': 'images', 'error': 'store edge: no answer; look'}),
            self.run_for_json('show', 'edge'))

    def test_accept_as_json(self):
        self.identities.accept.return_value = None, 'new'
        self.assertEqual(
            (0, {'store': 'edge', 'fsid': 'new', 'before': None,
                 'error': None}), self.run_for_json('accept', 'edge'))
        self.identities.accept.side_effect = errors.Unreachable(
            'edge', 'no answer', 'look')
        self.assertEqual(
            (3, {'store': 'edge', 'fsid': None, 'before': None,
                 'error': 'store edge: no answer; look'}),
            self.run_for_json('accept', 'edge'))

    def test_no_such_store_as_json(self):
        # With the same fields as if there were one.
        for command in ('show', 'accept'):
            self.identities.accept.return_value = None, 'new'
            known = self.run_for_json(command, 'edge')[1]
            status, found = self.run_for_json(command, 'nfs')
            self.assertEqual(2, status)
            self.assertEqual(known.keys(), found.keys())
            self.assertIn('nfs is no store', found['error'])

    def test_no_such_store(self):
        for command in ('show', 'accept'):
            status, output = self.run_command(command, 'nfs')
            self.assertEqual(2, status)
            self.assertIn('nfs', output)
