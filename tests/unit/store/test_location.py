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

"""Locations: what is read, what is written, what is refused."""

from glance_store._drivers import rbd as stock
from glance_store import exceptions
from oslo_config import cfg
from oslotest import base

from glance_dcn.store import location

FSID = '5f9a3c1e-0000-4000-8000-6b7d2e8f1a90'
IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
URI = 'rbd://%s/images/%s/snap' % (FSID, IMAGE)


def parse(uri):
    """Return the location a URI stands for."""
    loc = location.StoreLocation({}, cfg.ConfigOpts())
    loc.parse_uri(uri)
    return loc


def parts(loc):
    """Return the parts of a location."""
    return loc.fsid, loc.pool, loc.image, loc.snapshot


class TestLocation(base.BaseTestCase):

    def test_four_parts(self):
        self.assertEqual((FSID, 'images', IMAGE, 'snap'), parts(parse(URI)))

    def test_the_old_form_has_the_image_alone(self):
        loc = parse('rbd://' + IMAGE)
        self.assertEqual((None, None, IMAGE, None), parts(loc))
        self.assertEqual('rbd://' + IMAGE, loc.get_uri())

    def test_round_trip(self):
        self.assertEqual(URI, parse(URI).get_uri())

    def test_quoting(self):
        specs = {'fsid': FSID, 'pool': 'a/b c', 'image': 'é%2F',
                 'snapshot': 's@1'}
        uri = location.StoreLocation(specs, cfg.ConfigOpts()).get_uri()
        self.assertEqual('rbd://%s/a%%2Fb%%20c/%%C3%%A9%%252F/s%%401' % FSID,
                         uri)
        self.assertEqual(tuple(specs.values()), parts(parse(uri)))

    def test_stock_writes_the_same(self):
        specs = {'fsid': FSID, 'pool': 'a/b', 'image': IMAGE,
                 'snapshot': 'snap'}
        ours = location.StoreLocation(dict(specs), cfg.ConfigOpts())
        theirs = stock.StoreLocation(dict(specs), cfg.ConfigOpts())
        self.assertEqual(theirs.get_uri(), ours.get_uri())

    def test_foreign_scheme(self):
        for uri in ('file:///var/lib/glance/images/' + IMAGE,
                    'rbd:/%s/images/%s/snap' % (FSID, IMAGE),
                    'RBD://%s/images/%s/snap' % (FSID, IMAGE),
                    'http://example.org/' + IMAGE, IMAGE, ''):
            exc = self.assertRaises(exceptions.BadStoreUri, parse, uri)
            self.assertIn('rbd://', str(exc))

    def test_wrong_parts(self):
        for uri in ('rbd://%s/images' % FSID,
                    'rbd://%s/images/%s' % (FSID, IMAGE),
                    URI + '/more', URI + '/',
                    'rbd://', 'rbd:///images/%s/snap' % IMAGE,
                    'rbd://%s//%s/snap' % (FSID, IMAGE),
                    'rbd://%s/images//snap' % FSID,
                    'rbd://%s/images/%s/' % (FSID, IMAGE), 'rbd:////'):
            exc = self.assertRaises(exceptions.BadStoreUri, parse, uri)
            self.assertIn(uri, str(exc))
