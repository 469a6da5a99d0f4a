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

"""When a record stands for the hashes that Glance has."""

import types

import fixtures
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.sites import home as homes

KEY = bytes(range(32))
HASHES = {'md5': 'a' * 32, 'sha512': 'b' * 128}


class FakeHome:
    """A home whose key is a value, or an exception to raise."""

    def __init__(self, key=KEY, site='central'):
        self.site = site and types.SimpleNamespace(name=site)
        self._key = key

    def key(self):
        if isinstance(self._key, Exception):
            raise self._key
        return self._key


HOME = FakeHome()


def at(home):
    return types.SimpleNamespace(name='dcn0', home=home)


class ProvesTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.record = records.sign(records.Record(10, 'digest', HASHES),
                                   'image', KEY)

    def proves(self, record=None, hashes=HASHES, wanted=(), size=10,
               image='image', home=HOME):
        return homes.proves(at(home), image, record or self.record, size,
                            hashes, wanted)

    def test_all_is_right(self):
        self.assertTrue(self.proves())
        self.assertTrue(self.proves(hashes={'sha512': HASHES['sha512']}))
        self.assertTrue(self.proves(hashes={}, wanted=('md5', 'sha512')))

    def test_no_record(self):
        self.assertFalse(homes.proves(at(FakeHome()), 'image', None, 10,
                                      HASHES))

    def test_size_or_hashes_differ(self):
        self.assertFalse(self.proves(size=11))
        for name in HASHES:
            other = dict(HASHES, **{name: 'c' * len(HASHES[name])})
            self.assertFalse(self.proves(hashes=other))
        self.assertIn('dcn0', self.log.output)

    def test_hash_is_missing(self):
        self.assertFalse(self.proves(hashes={'sha256': 'd' * 64}))
        self.assertFalse(self.proves(wanted=('sha256',)))

    def test_not_of_this_deployment(self):
        bare = records.Record(10, 'digest', HASHES)
        for record in (bare, records.sign(bare, 'image', KEY[::-1]),
                       records.sign(bare, 'other', KEY)):
            self.assertFalse(self.proves(record))
        self.assertFalse(self.proves(image='other'))

    def test_no_key(self):
        for home in (None, FakeHome(site=None),
                     FakeHome(rados.TimedOut('late', errno=110)),
                     FakeHome(errors.Misconfigured('central', 'x', 'y')),
                     FakeHome(errors.Unreachable('central', 'x', 'y'))):
            self.assertFalse(self.proves(home=home))
            bare = records.Record(10, 'digest', HASHES)
            self.assertEqual({}, homes.sign(at(home), 'image', bare).macs)
        self.assertIn('central', self.log.output)

    def test_sign(self):
        bare = records.Record(10, 'digest', HASHES)
        signed = homes.sign(at(FakeHome()), 'image', bare)
        self.assertTrue(homes.is_authentic(at(FakeHome()), 'image', signed))
        self.assertFalse(homes.is_authentic(at(FakeHome()), 'image', bare))
        self.assertFalse(homes.is_authentic(at(FakeHome()), 'image', None))
