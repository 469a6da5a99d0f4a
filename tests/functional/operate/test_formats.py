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

"""What programs read of ``glance-dcn`` on the lab, in each format."""

import csv
import io
import uuid

import yaml

from lab import glance
from tests.functional.api import base
from tests.functional.operate import base as operate

# It would clear a screen and change the title of a terminal.
_NAME = '\x1b[2J\x1b]0;x\x07-\u202e%s'
_SHOWN = r'\x1b[2J\x1b]0;x\x07-\u202e%s'


class FormatsTest(operate.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.etc = self.configured(base.rbd_stores())

    def run_for(self, form, *argv, etc=None, columns=()):
        """Return the exit status and what is printed, which is harmless."""
        chosen = [word for name in columns for word in ('-c', name)]
        status, out, _seconds = self.run_command(
            etc or self.etc, *argv, '-f', form, *chosen)
        self.assertTrue(out.replace('\n', '').isprintable(), out)
        return status, out

    def test_image_with_a_hostile_name(self):
        unique = uuid.uuid4().hex
        image = self.uploaded(self.central, base.random_data(), 'central',
                              'dcn0', name=_NAME % unique)
        argv = ('status', '--image', image)
        found = self.json_of(self.run_for('json', *argv)[1])
        self.assertEqual(_NAME % unique, found['images'][0]['name'])
        shown = yaml.safe_load(self.run_for('yaml', *argv)[1])
        self.assertEqual(found['images'], shown['images'])
        _status, out = self.run_for('csv', *argv)
        row, = csv.DictReader(io.StringIO(out))
        self.assertEqual(
            (image, _SHOWN % unique, 'central,dcn0', 'dcn1'),
            tuple(row[name] for name in ('image', 'name', 'present',
                                         'missing')))
        self.assertEqual(
            '%s %d\n' % (_SHOWN % unique, found['images'][0]['size']),
            self.run_for('value', *argv, columns=('name', 'size'))[1])

    def test_sites(self):
        status, out = self.run_for('value', 'site', 'list', columns=(
            'name', 'state', 'fsid', 'glance'))
        self.assertEqual((0, [
            [site, 'up', self.cluster(site).fsid,
             'default' if site == 'central' else 'used']
            for site in base.SITES]), (status, [
                line.split() for line in out.splitlines()]))
        self.assertEqual((2, ''), self.run_for(
            'json', 'site', 'list', columns=('nonsense',)))

    def test_site_that_is_away(self):
        etc = self.configured(dict(base.rbd_stores(), edge=(
            'dcn', glance.rbd_store(self.cluster('dcn0'),
                                    rbd_store_ceph_conf='/nonsense'))))
        for argv, columns in (
                (('site', 'list'), ('name', 'state', 'glance')),
                (('status', '--problems'), ('site', 'state'))):
            status, out = self.run_for('csv', *argv, etc=etc, columns=columns)
            rows = [*csv.reader(io.StringIO(out))]
            self.assertEqual(
                (1, ['edge', 'not deployed', 'used'][:len(columns)]),
                (status, rows[-1]))
