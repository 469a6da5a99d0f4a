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

"""Where the image of a location is read, and which store has a location.

Glance asks all stores in turn for one whose store it does not know; its cache
prefetches images that way.
"""

import contextlib
import errno
import functools
import time
import types
from unittest import mock

import fixtures
from glance.api.v2 import cached_images
from glance import image_cache
from glance.image_cache import prefetcher
from glance_store import exceptions
from glance_store import multi_backend
from oslo_config import cfg
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors
from glance_dcn.runtime import process
from glance_dcn.store import deletion
from glance_dcn.store import driver
from glance_dcn.store import failures
from glance_dcn.store import replicas
from tests.unit.sites import test_sources
from tests.unit.store import sites

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'


class Endpoint(test_sources.FakeEndpoint):
    """An endpoint of an image that has a record."""

    def call(self, function, *args, fence=True):
        return (self.image.record if function is records.load
                else super().call(function, *args))


class Site(test_sources.FakeSite):
    """A site with such an image."""

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot):
        yield Endpoint(self.record, self.size, self.name)


class FakeStore:
    """A store with a site; ``weight`` as older glance_stores have it: not."""

    pool = 'images'
    conf = types.SimpleNamespace(
        glance_store=types.SimpleNamespace(default_backend='local'))

    def __init__(self, name, weight=None, **site):
        self.site = Site(name, **site)
        if weight is not None:
            self.weight = weight


class ReplicasTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.record = test_sources.signed('digest')

    def read(self, *stores, pool='images', snapshot='snap', fails=1):
        """Return the sites that an image of the last store is read from.

        :param fails: how many of them fail, one after the other
        """
        for store in stores:
            store.site.record = store.site.record or self.record
            store.siblings = {one.site.name: one for one in stores}
        loc = types.SimpleNamespace(pool=pool, image='image',
                                    snapshot=snapshot)
        endpoint = Endpoint(self.record, 10)
        found = replicas.Replicas(stores[-1], loc)
        with found.failover() as failover:
            failover.open()
            failover.record = found.record(endpoint)
            for _ in range(fails):
                failover.next_source(OSError())
            return failover.names

    def test_the_location_then_the_others_in_order(self):
        self.assertEqual(['far', 'local', 'near'], self.read(
            FakeStore('near', round_trip=.1), FakeStore('local'),
            FakeStore('far', round_trip=.11), fails=3))

    def test_heavier_ones_first(self):
        self.assertEqual(['far', 'near', 'local'], self.read(
            FakeStore('near', weight=1), FakeStore('local'),
            FakeStore('far', weight=2), fails=2))

    def test_those_away_are_left_out(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', available=False), FakeStore('far')))

    def test_another_image(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', record=test_sources.signed('other')),
            FakeStore('far')))

    def test_record_of_anybody(self):
        self.assertEqual(['far'], self.read(
            FakeStore('local', record=records.Record(10, 'digest')),
            FakeStore('far')))

    def test_location_that_is_not_ours(self):
        for kwargs in ({'pool': 'volumes'}, {'snapshot': 'other'},
                       {'pool': None}, {'snapshot': None}):
            self.assertEqual(['far'], self.read(
                FakeStore('local'), FakeStore('far'), **kwargs))

    def test_no_record(self):
        self.record = None
        self.assertEqual(['far'], self.read(FakeStore('local'),
                                            FakeStore('far')))


class ReadableStore(driver.Store):
    """A store that has each image, and no cluster.

    :ivar error: what reading fails with, or None
    :ivar read: images that were read
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.error, self.read = None, []

    def _begin_reading(self, loc, offset, wanted):
        if self.error:
            raise self.error
        self.read.append(loc.image)
        return iter([b'data']), 4


class Requests(deletion.Requests):
    """Defers all that is to be deleted, and keeps what that is."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def delete(self, store, loc):
        self.calls.append((store.name, loc.get_uri()))
        return mock.Mock(deferred=True)


class SearchTest(sites.SitesCase):
    """Store central is asked first, and its cluster does not answer."""

    def setUp(self):
        super().setUp()
        self.put()
        self.start()
        self.assertEqual('central', next(iter(self.conf.enabled_backends)))

    def found(self, fsid):
        """Return what is read of a location in the cluster with a fsid."""
        store = self.replace(ReadableStore)
        data, size = multi_backend.get(
            'rbd://%s/images/%s/snap' % (fsid, IMAGE), None)
        self.assertEqual([IMAGE], store.read)
        return b''.join(data), size

    def test_first_store_has_another_cluster(self):
        self.assertEqual((b'data', 4), self.found(
            sites.FSID.replace('5f', '7f')))

    def test_fsid_of_the_first_store_is_not_known(self):
        # Its conf file does not have it, and the cluster is away.
        conf = self.ceph_conf('central')
        conf.write_text(conf.read_text().replace('fsid', '# fsid'))
        began = time.monotonic()
        self.assertEqual((b'data', 4), self.found(
            sites.FSID.replace('5f', '7f')))
        # It is not waited for.
        self.assertLess(time.monotonic() - began, 4)

    def check_deleted(self, fsid, name):
        """See that a deletion is done by the store of a name."""
        uri = 'rbd://%s/images/%s/snap' % (fsid, IMAGE)
        requests = Requests()
        process.put(requests, deletion.Requests)
        multi_backend.delete(uri, None)
        self.assertEqual([(name, uri)], requests.calls)

    def test_store_that_has_it_deletes_it(self):
        self.check_deleted(sites.FSID, 'central')
        self.check_deleted(sites.FSID.replace('5f', '7f'), 'dcn7')

    def test_fsid_of_the_first_store_is_not_known_to_a_deletion(self):
        # Otherwise it would be recorded for a site that does not have it.
        conf = self.ceph_conf('central')
        conf.write_text(conf.read_text().replace('fsid', '# fsid'))
        self.check_deleted(sites.FSID.replace('5f', '7f'), 'dcn7')
        # It may be its own: no other has that.
        self.check_deleted(sites.FSID, 'central')

    def test_pool_of_the_first_store_in_a_cluster_of_several(self):
        conf = self.ceph_conf('central')
        conf.write_text(conf.read_text().replace('fsid', '# fsid'))
        self.store().pool = 'others'
        self.check_deleted(sites.FSID.replace('5f', '7f'), 'central')

    def test_location_that_no_store_has_is_kept(self):
        # Glance drops it on NotFound.
        error = self.assertRaises(
            exceptions.BadStoreUri, multi_backend.delete,
            'rbd://%s/images/%s/snap' % (sites.FSID.replace('5f', '9f'),
                                         IMAGE), None)
        self.assertNotIsInstance(error, exceptions.NotFound)

    def test_store_that_is_named_deletes_for_no_other(self):
        self.assertRaises(
            exceptions.BadStoreUri, multi_backend.delete,
            'rbd://%s/images/%s/snap' % (sites.FSID.replace('5f', '7f'),
                                         IMAGE), 'central')

    def test_no_store_has_the_cluster(self):
        self.assertRaises(exceptions.NotFound, multi_backend.get,
                          'rbd://%s/images/%s/snap' % (
                              sites.FSID.replace('5f', '9f'), IMAGE), None)

    def test_asked_by_its_name_it_says_why(self):
        error = self.assertRaises(
            exceptions.BadStoreUri, multi_backend.get,
            'rbd://%s/images/%s/snap' % (sites.FSID.replace('5f', '9f'),
                                         IMAGE), 'central')
        self.assertIn('central', str(error))
        self.assertIn(sites.FSID, str(error))


class CacheTest(sites.SitesCase):
    """Glance's thread that fills its cache ahead, with a real cache."""

    def setUp(self):
        super().setUp()
        self.put()
        self.start()
        # Glance 26 makes an enforcer of policies for each image.
        cfg.CONF([], default_config_files=[])
        self.addCleanup(cfg.CONF.reset)
        folder = self.useFixture(fixtures.TempDir()).path
        for name, value in (('image_cache_dir', folder),
                            ('image_cache_driver', 'sqlite')):
            cfg.CONF.set_override(name, value)
            self.addCleanup(cfg.CONF.clear_override, name)
        self.useFixture(fixtures.MonkeyPatch(
            'glance.image_cache.prefetcher.CONF', self.conf))
        self.image = types.SimpleNamespace(status='active', checksum=None)
        self.useFixture(fixtures.MockPatchObject(
            prefetcher.Prefetcher, '__init__', return_value=None))
        self.worker = cached_images.CacheWorker()
        self.worker.prefetcher.cache = self.cache = image_cache.ImageCache()
        self.worker.prefetcher.gateway = mock.Mock(**{
            'get_repo.return_value.get.return_value': self.image})
        self.worker.start()
        self.addCleanup(self.worker.terminate)

    def fetch(self, fsid):
        """Have the thread fetch an image; return whether it is cached."""
        self.image.locations = [
            {'url': 'rbd://%s/images/%s/snap' % (fsid, IMAGE)}]
        self.worker.submit(IMAGE)
        began = time.monotonic()
        while self.worker.q.unfinished_tasks:
            self.assertTrue(self.worker.is_alive(), self.log.output)
            self.assertLess(time.monotonic() - began, 60)
            time.sleep(.01)
        self.assertTrue(self.worker.is_alive(), self.log.output)
        return self.cache.is_cached(IMAGE)

    def check_lives(self):
        """See that it caches what can be read."""
        self.replace(ReadableStore)
        self.assertTrue(self.fetch(sites.FSID.replace('5f', '7f')))

    def test_site_is_away(self):
        # No keyring, no monitor.
        self.assertFalse(self.fetch(sites.FSID))
        self.assertIn('store central', self.log.output)
        self.check_lives()

    def test_location_of_no_store(self):
        # That of an image which is at another edge only, say.
        self.assertFalse(self.fetch(sites.FSID.replace('5f', '9f')))
        self.assertIn('is not a location of store', self.log.output)
        self.check_lives()

    def test_image_is_not_there(self):
        self.replace(ReadableStore).error = exceptions.NotFound(image=IMAGE)
        self.assertFalse(self.fetch(sites.FSID.replace('5f', '7f')))
        self.check_lives()

    def test_others_are_told_at_once(self):
        self.assertRaises(exceptions.BadStoreConfiguration, multi_backend.get,
                          'rbd://%s/images/%s/snap' % (sites.FSID, IMAGE),
                          None)


class HolderTest(base.BaseTestCase):
    """Which store has the image of a location that names none."""

    def setUp(self):
        super().setUp()
        self.located = set()
        self.stores = {}
        for name in ('central', 'dcn0', 'dcn1'):
            self.stores[name] = types.SimpleNamespace(
                name=name, siblings=self.stores, url_prefix='rbd://%s/' % name,
                database=types.SimpleNamespace(
                    locations=lambda image: self.located),
                site=types.SimpleNamespace(
                    available=True, has=set(), error=None,
                    connection=types.SimpleNamespace(round_trip=None),
                    open_pool=lambda: contextlib.nullcontext('ioctx')))
            site = self.stores[name].site
            site.reading = functools.partial(self.reading, site)
        self.loc = types.SimpleNamespace(image=IMAGE, get_uri=lambda: 'uri')

    def reading(self, site, ioctx, image, snapshot):
        if site.error or snapshot not in site.has:
            raise site.error or engine_errors.RequestError(
                'image', 'open', errno.ENOENT)
        return contextlib.nullcontext()

    def has(self, store, *snapshots):
        self.stores[store].site.has = {None, *snapshots}

    def holder(self):
        found = replicas.holder(self.stores['central'], self.loc)
        return found and found.name

    def test_the_one_that_has_it(self):
        self.assertIsNone(self.holder())
        self.has('dcn1', 'snap')
        self.assertEqual('dcn1', self.holder())

    def test_one_with_a_location_of_its_own_is_not_meant(self):
        self.has('central', 'snap')
        self.located = {'rbd://central/images/%s/snap' % IMAGE}
        self.assertIsNone(self.holder())
        self.has('dcn0', 'snap')
        self.assertEqual('dcn0', self.holder())

    def test_without_a_snapshot(self):
        self.has('central')
        self.assertEqual('central', self.holder())
        self.has('dcn0')
        self.assertIn('store dcn0 has an RBD image of that name', str(
            self.assertRaises(failures.Away, self.holder)))
        self.has('dcn1', 'snap')
        self.assertEqual('dcn1', self.holder())

    def test_one_does_not_answer(self):
        self.has('central')
        self.stores['dcn0'].site.error = errors.Unreachable(
            'dcn0', 'no answer', 'wait')
        self.assertIn('store dcn0: no answer', str(
            self.assertRaises(failures.Away, self.holder)))
        self.has('central', 'snap')
        self.assertEqual('central', self.holder())
