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

"""``glance-dcn status`` and ``metrics`` on the lab, and many images."""

import pathlib
import time
import uuid

import fixtures
from prometheus_client import parser
import rbd
import requests
import sqlalchemy

from glance_dcn.status import inventory
from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.api import databases
from tests.functional.operate import base as operate

_IMAGES, _SITES = 10000, 50


class StatusTestCase(operate.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.etc = self.configured(base.rbd_stores())
        self.name = 'status-%s' % uuid.uuid4().hex

    def status(self, *argv, etc=None):
        """Return the exit status and what is shown as JSON."""
        code, out, self.seconds = self.run_command(
            etc or self.etc, 'status', '--format', 'json', *argv)
        return code, self.json_of(out)


class StatusTest(StatusTestCase):

    def test_images_and_sites(self):
        image = self.uploaded(self.central, base.random_data(), 'central',
                              'dcn0', name=self.name)
        code, found = self.status('--name', self.name)
        # There may be tasks of other tests while this runs.
        self.assertIn(code, (0, 1))
        self.assertEqual(list(base.SITES),
                         [site['name'] for site in found['sites']])
        for site in found['sites']:
            self.assertEqual(('up', self.cluster(site['name']).fsid),
                             (site['state'], site['fsid']))
            self.assertGreater(site['round_trip'], 0)
        shown, = found['images']
        self.assertEqual(
            (image, {'central': 'present', 'dcn0': 'present',
                     'dcn1': 'missing'}),
            (shown['id'], shown['sites']))
        for argv, number in ((('--missing', 'dcn1'), 1),
                             (('--missing', 'dcn0'), 0),
                             (('--site', 'dcn0'), 1)):
            found = self.status('--name', self.name, *argv)[1]
            self.assertEqual(number, found['images_meant'])

    def test_table(self):
        self.uploaded(self.central, base.random_data(), 'dcn0',
                      name=self.name)
        _code, out, _seconds = self.run_command(
            self.etc, 'status', '--name', self.name)
        row = next(line for line in out.splitlines() if self.name in line)
        self.assertEqual(['active', 'missing', 'present', 'missing'],
                         row.split()[2:])

    def test_site_that_is_away(self):
        etc = self.configured(dict(base.rbd_stores(), edge=(
            'dcn', glance.rbd_store(self.cluster('dcn0'),
                                    rbd_store_ceph_conf='/nonsense'))))
        code, found = self.status(etc=etc)
        self.assertEqual(1, code)
        self.assertEqual('not deployed', found['sites'][3]['state'])
        self.assertIn('/nonsense', found['sites'][3]['reason'])

    def test_site_that_glance_refuses(self):
        etc = self.configured(dict(base.rbd_stores(), edge=(
            'dcn', glance.rbd_store(self.cluster('dcn0')))))
        code, found = self.status(etc=etc)
        self.assertEqual(1, code)
        self.assertEqual('misconfigured', found['sites'][3]['state'])
        self.assertIn('that of store dcn0 already',
                      found['sites'][3]['reason'])

    def test_image_that_is_lost(self):
        """As after the database was restored: its data is gone."""
        image = self.uploaded(self.central, base.random_data(), 'dcn1',
                              name=self.name)
        with self.rbd_image('dcn1', image) as found:
            found.unprotect_snap('snap')
            found.remove_snap('snap')
        with self.cluster('dcn1').pool() as ioctx:
            rbd.RBD().remove(ioctx, image)
        code, found = self.status('--name', self.name)
        self.assertEqual((1, 'lost'),
                         (code, found['images'][0]['sites']['dcn1']))
        _code, out, _seconds = self.run_command(
            self.etc, 'check', '--site', 'dcn1', '--only', 'images')
        self.assertIn(image, out)

    def test_metrics(self):
        self.uploaded(self.central, base.random_data(), 'central')
        path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'dcn.prom'
        code, _out, _seconds = self.run_command(self.etc, 'metrics',
                                                '--output', path)
        self.assertEqual(0, code)
        found = {(sample.name, sample.labels.get('site'),
                  sample.labels.get('state')): sample.value
                 for family in parser.text_string_to_metric_families(
                     path.read_text()) for sample in family.samples}
        for site in base.SITES:
            self.assertEqual(1, found['glance_dcn_site_up', site, None])
        self.assertGreaterEqual(
            found['glance_dcn_site_images', 'central', 'present'], 1)

    def test_endpoint(self):
        port = process.free_port()
        command = self.start(self.etc, 'metrics', '--listen',
                             '127.0.0.1:%d' % port)
        self.addCleanup(command.communicate)
        self.addCleanup(command.kill)

        def answers():
            try:
                return 'glance_dcn_site_up{site="dcn1"} 1.0' in requests.get(
                    'http://127.0.0.1:%d/metrics' % port, timeout=5).text
            except requests.ConnectionError:
                return False
        process.wait_for('metrics', answers, 30)


class ManyImagesTest(StatusTestCase):
    """A database with 10,000 images at 50 sites."""

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        url = self.useFixture(databases.Database(self.lab, folder)).url
        self.sites = ['dcn%02d' % number for number in range(_SITES)]
        # Few of them lack images, as it is in life.
        self.etc = self.configured({
            site: ('dcn', glance.rbd_store(
                self.cluster(base.SITES[number % len(base.SITES)])))
            for number, site in enumerate(self.sites)},
            {'database': {'connection': url}}, default=self.sites[0])
        process.run([pathlib.Path(glance.wsgi.BIN) / 'glance-manage',
                     '--config-dir', self.etc, 'db_sync'])
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            self.fill(connection)

    def fill(self, connection):
        """Add images, with a location at each site but those few."""
        now = "'2026-11-21 14:00:00'"
        connection.execute(sqlalchemy.text(
            'INSERT INTO images (id, name, size, status, visibility, '
            'min_disk, min_ram, protected, os_hidden, owner, created_at, '
            'deleted) VALUES (:id, :name, 1000, :status, :visibility, 0, 0, '
            'false, false, :owner, %s, false)' % now), [
                {'id': str(uuid.uuid4()), 'name': 'image-%05d' % number,
                 'status': 'active', 'visibility': 'private',
                 'owner': 'project-%d' % (number % 100)}
                for number in range(_IMAGES)])
        for number, site in enumerate(self.sites):
            connection.execute(sqlalchemy.text(
                "INSERT INTO image_locations (image_id, value, meta_data, "
                "status, created_at, deleted) SELECT id, CONCAT("
                "'rbd://%s/images/', id, '/snap'), :meta, 'active', %s, false "
                "FROM images WHERE name >= :first" % (uuid.uuid4(), now)), {
                    'meta': '{"store": "%s"}' % site,
                    'first': 'image-%05d' % number})
        for name in (inventory.IMPORTING, inventory.FAILED):
            connection.execute(sqlalchemy.text(
                "INSERT INTO image_properties (image_id, name, value, "
                "created_at, deleted) SELECT id, :name, '', %s, false "
                "FROM images" % now), {'name': name})

    def test_in_time(self):
        began = time.monotonic()
        _code, found = self.status()
        summary = time.monotonic() - began
        self.assertEqual({'active': _IMAGES}, found['totals']['images'])
        self.assertEqual([None, 0, 7, 49], [
            found['images'], *(found['sites'][number]['missing']
                               for number in (0, 7, 49))])
        _code, found = self.status('--missing', 'dcn49', '--limit', '100')
        filtered = self.seconds
        self.assertEqual(49, found['images_meant'])
        self.assertEqual({'image-%05d' % number for number in range(49)},
                         {image['name'] for image in found['images']})
        _code, found = self.status('--all', '--limit', str(_IMAGES))
        self.assertEqual(_IMAGES, len(found['images']))
        self.addDetail('seconds of status', base.content.text_content(
            'summary %.1f, filtered %.1f, all images %.1f'
            % (summary, filtered, self.seconds)))
        self.assertInTime(max(summary, filtered, self.seconds), 10)
