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


"""What tests of sites files share."""

import pathlib
import textwrap

import fixtures
from oslotest import base

from glance_dcn.deploy import load
from glance_dcn.deploy import sitesfile

FSIDS = ['%08x-e5ff-42a0-9f53-860403b29a33' % number for number in range(9)]
# Of Ceph's documentation: it opens nothing.
KEY = 'AQD29WteAAAAABAAphgOjFD7nyjdYe8Lz0mQ5Q=='

SITES = """\
defaults:
  user: external
glance:
  database:
    connection: {file: database}
sites:
- name: central
  central: true
  cluster:
    fsid: %s
    mons: [172.16.11.84, 172.16.11.87]
    key: {file: central.keyring}
  workers: ['http://10.0.0.11:9292', 'http://10.0.0.12:9292']
- name: dcn0
  cluster:
    fsid: %s
    mons: [172.16.11.61]
    key: {file: dcn0.keyring}
  at_central: {key: {file: guests.keyring}}
  from_central: {key: {file: guests.keyring}}
  workers: ['http://10.1.0.11:9292']
  limits: {max_transfers: 4, bandwidth_limit: 50}
- name: dcn1
  cluster:
    fsid: %s
    mons: [172.16.11.182]
    key: {file: dcn1.keyring}
  at_central: {key: {file: guests.keyring}}
  from_central: {key: {file: guests.keyring}}
  workers: ['http://10.2.0.11:9292']
- name: far
  at_central: {key: {file: guests.keyring}}
  workers: ['http://10.3.0.11:9292']
""" % tuple(FSIDS[1:4])


class SitesFileTestCase(base.BaseTestCase):
    """A test with a sites file, and what it refers to, in a folder."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = self.folder / 'sites.yaml'
        for site in ('central', 'dcn0', 'dcn1', 'dcn2'):
            self.write_secret('%s.keyring' % site,
                              '[client.external]\n\tkey = %s\n' % KEY)
        # The users that Glances have at clusters of other sites.
        self.write_secret('guests.keyring', ''.join(
            '[client.glance-%s]\n\tkey = %s\n' % (site, KEY)
            for site in ('central', 'dcn0', 'dcn1', 'dcn-1', 'dcn2', 'far')))
        self.write_secret('database',
                          'mysql+pymysql://glance:pa$$s@10.0.0.5/glance\n')

    def write_secret(self, name, text):
        """Write a file that only its owner may read."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def load(self, text=SITES):
        """Return the deployment of a sites file."""
        self.path.write_text(textwrap.dedent(text))
        return load.load(self.path)

    def many(self, count):
        """Return a sites file with so many edges more."""
        self.write_secret('many.keyring', ''.join(
            '[client.glance-%s]\n\tkey = %s\n' % (site, KEY)
            for site in ('central', *('edge%d' % number
                                      for number in range(count)))))
        one = SITES[SITES.index('- name: dcn1'):SITES.index('- name: far')]
        return SITES + ''.join(
            one.replace('dcn1.keyring', 'dcn0.keyring').replace(
                'guests.keyring', 'many.keyring').replace(
                'dcn1', 'edge%d' % number).replace(
                FSIDS[3], '%08d%s' % (1000 + number, FSIDS[3][8:])).replace(
                '10.2.0.', '10.4.%d.' % number)
            for number in range(count))

    def assertRefused(self, line, reason, text):
        """A sites file is refused, for a reason on a line."""
        exc = self.assertRaises(sitesfile.Mistake, self.load, text)
        self.assertIn(reason, str(exc))
        self.assertEqual('%s:%d: ' % (self.path, line),
                         str(exc)[:-len(exc.reason)])
