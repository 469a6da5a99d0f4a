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

"""The last copy of an image, which stays while one of them is removed."""

import contextlib
import errno
import threading
import time
import types

from glance import location as glance_location
from glance_store import exceptions
from oslotest import base
import rados

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import name_lock
from glance_dcn.store import failures
from glance_dcn.store import last_copy
from glance_dcn.store import location
from tests.unit import glance_stores
from tests.unit.store import pools

IMAGE = '0d4cd62b-9e7b-4f4a-9d7a-b3bb39d9e6c5'


class Site:
    """A site whose steps are noted."""

    available = True

    def __init__(self, name, steps):
        self.name = self.fsid = name
        self._steps = steps
        self.access = types.SimpleNamespace(refusal=lambda: None)
        self.connection = types.SimpleNamespace(round_trip=0.01,
                                                known_fsid=name)
        self.health = health.Health(health.UP)
        self.error = self.reading_error = self.hangs = None
        self.pool = pools.Pool()
        self.suspicions, self.failures = 0, []

    def suspect(self):
        self.suspicions += 1

    def call(self, function, *args, late=None, fence=True):
        return function(*args)

    @contextlib.contextmanager
    def open_pool(self, pool):
        if self.error:
            raise self.error
        if self.hangs:
            self.hangs.wait(60)
        try:
            yield self.pool
        except Exception as exc:
            # As a connection does.
            self.failures.append(exc)
            raise

    @contextlib.contextmanager
    def removal_lock(self, ioctx, image):
        self._steps.append('lock %s' % self.name)
        try:
            yield
        finally:
            self._steps.append('unlock %s' % self.name)

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot):
        if self.reading_error:
            raise self.reading_error
        self._steps.append('see %s' % self.name)
        yield


class LastCopyTest(base.BaseTestCase):
    """An image in stores b, to be removed from, and a and c."""

    def setUp(self):
        super().setUp()
        self.steps = []
        # Asking and unlocking are done in threads.
        self.options = {'start': lambda name, run: run()}
        self.ids = {7, 8, 9}
        self.database = types.SimpleNamespace(
            available=True, location_ids=lambda image: self.ids,
            drop_location=lambda image, one: self.steps.append(
                'drop %d' % one))
        self.stores = {}
        for name in 'bac':
            self.stores[name] = types.SimpleNamespace(
                name=name, database=self.database, site=Site(
                    name, self.steps), siblings=self.stores, conf=None,
                pool='images')
        self.status = 'active'
        self.places = [
            {'url': 'rbd://%s/images/%s/snap' % (name, IMAGE), 'id': number,
             'metadata': {'store': name}}
            for number, name in enumerate('bac', 7)]
        self.useFixture(glance_stores.Map(a=None, b=None, c=None))
        self.error = None

    def location(self, uri):
        found = location.StoreLocation({}, None)
        found.parse_uri(uri)
        return found

    def delete(self, context, image_id, place):
        store = self.stores['b']
        with last_copy.kept(store, self.location(place['url']),
                            **self.options):
            self.steps.append('remove')
            if self.error:
                raise self.error

    def pop(self, module='glance.api.v2.images'):
        """Take away the first location, in a function of a module."""
        proxy = types.SimpleNamespace(
            image=types.SimpleNamespace(image_id=IMAGE, status=self.status),
            context=None,
            store_utils=types.SimpleNamespace(
                delete_image_location_from_backend=self.delete))
        names = {'__name__': module, 'pop': glance_location.StoreLocations(
            proxy, self.places).pop}
        exec('def run(): pop(0)', names)
        names['run']()

    def test_locked_in_one_order(self):
        self.pop()
        self.assertEqual(['lock a', 'lock b', 'see a', 'remove', 'drop 7',
                          'unlock b', 'unlock a'], self.steps)

    def test_next_one_if_one_is_not_seen(self):
        self.stores['a'].site.error = errors.Unreachable('a', 'away', 'wait')
        self.pop()
        self.assertEqual(['lock b', 'lock c', 'see c', 'remove', 'drop 7',
                          'unlock c', 'unlock b'], self.steps)

    def hang(self, *names):
        """Have sites not answer until the test is through."""
        over = threading.Event()
        self.addCleanup(over.set)
        for name in names:
            self.stores[name].site.hangs = over
        self.options = {'patience': 1}

    def test_sites_that_do_not_answer_are_not_waited_for_in_turn(self):
        # Neither the one that it is removed from, nor the nearest other one.
        self.hang('a', 'b')
        began = time.monotonic()
        self.pop()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(['lock c', 'see c', 'remove', 'drop 7'],
                         self.steps[:4])

    def test_site_that_is_found_to_be_away_is_not_waited_for(self):
        self.hang('b')
        self.options['patience'] = 60
        away = threading.Timer(0.1, setattr, [
            self.stores['b'].site, 'available', False])
        away.start()
        self.addCleanup(away.join)
        began = time.monotonic()
        self.pop()
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(['lock a', 'see a', 'remove', 'drop 7'],
                         self.steps[:4])

    def test_none_answers_in_time(self):
        self.hang('a', 'c')
        began = time.monotonic()
        exc = self.assertRaises(failures.LastCopy, self.pop)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn('store a: it did not answer in time; store c: it did '
                      'not answer in time', exc.msg)
        self.assertNotIn('remove', self.steps)

    def test_slow_object_does_not_make_a_site_lost(self):
        class Slow(pools.Pool):
            def operate_aio_write_op(self, op, name, oncomplete):
                raise rados.TimedOut('no answer', errno=errno.ETIMEDOUT)
        self.stores['a'].site.pool = Slow()
        self.pop()
        self.assertEqual(1, self.stores['a'].site.suspicions)
        self.assertEqual([], self.stores['a'].site.failures)
        self.assertIn('see c', self.steps)

    def test_none_is_seen(self):
        for name in 'ac':
            self.stores[name].site.error = errors.Unreachable(
                name, 'away', 'wait')
        exc = self.assertRaises(failures.LastCopy, self.pop)
        self.assertIn('from store b: no other store', exc.msg)
        self.assertIn('store a: away; wait; store c: store c: away', exc.msg)
        self.assertNotIn('remove', self.steps)
        self.assertEqual(3, len(self.places))

    def test_site_that_it_is_removed_from_is_away(self):
        # That is deferred.
        self.stores['b'].site.error = errors.Unreachable('b', 'away', 'wait')
        self.pop()
        self.assertEqual(['lock a', 'see a', 'remove', 'drop 7', 'unlock a'],
                         self.steps)

    def test_one_that_may_only_be_read_is_not_locked(self):
        self.stores['a'].site.access.refusal = lambda: errors.ReadOnly(
            'a', 'user')
        self.pop()
        self.assertEqual(['lock b', 'see a', 'remove'], self.steps[:3])

    def test_request_that_knows_other_locations(self):
        for self.ids in {8, 9}, {7, 8}, {7, 8, 9, 10}, set():
            exc = self.assertRaises(failures.LastCopy, self.pop)
            self.assertIn('changed meanwhile', exc.msg)
        self.assertNotIn('remove', self.steps)
        self.assertEqual('unlock a', self.steps[-1])

    def test_two_stores_with_one_pool(self):
        del self.places[2]
        self.ids = {7, 8}
        self.places[1]['url'] = self.places[0]['url']
        self.assertRaises(failures.LastCopy, self.pop)
        self.assertNotIn('remove', self.steps)

    def test_store_of_another_type(self):
        del self.places[2], self.stores['a']
        self.ids = {7, 8}
        self.stores['b'].conf = types.SimpleNamespace(
            enabled_backends={'a': 'file', 'b': 'dcn'})
        self.pop()
        self.assertEqual(['lock b', 'remove', 'drop 7', 'unlock b'],
                         self.steps)

    def test_another_removal_goes_on_beside_a_store_of_another_type(self):
        del self.places[2], self.stores['a']
        self.ids = {7, 8}
        self.stores['b'].conf = types.SimpleNamespace(
            enabled_backends={'a': 'file', 'b': 'dcn'})

        def refuse(ioctx, image):
            raise name_lock.NotLocked(image, 'another client holds it')
        self.stores['b'].site.removal_lock = refuse
        exc = self.assertRaises(failures.LastCopy, self.pop)
        self.assertIn('another client holds it', exc.msg)
        self.assertNotIn('remove', self.steps)

    def test_in_use(self):
        self.error = exceptions.InUseByStore()
        self.assertRaises(exceptions.InUseByStore, self.pop)
        self.assertNotIn('drop 7', self.steps)

    def test_data_was_not_there(self):
        self.error = exceptions.NotFound()
        self.assertRaises(exceptions.NotFound, self.pop)
        self.assertIn('drop 7', self.steps)

    def test_import_is_undone(self):
        self.status = 'importing'
        self.pop('glance.async_.flows.api_image_import')
        self.assertEqual(['remove'], self.steps)

    def test_copy_is_undone(self):
        # Whose source may have been removed meanwhile.
        self.pop('glance.async_.flows.api_image_import')
        self.assertIn('see a', self.steps)
        del self.places[1:]
        self.ids = {8}
        self.assertRaises(failures.LastCopy, self.pop,
                          'glance.async_.flows.api_image_import')

    def test_location_that_was_never_saved(self):
        del self.places[0]['id']
        self.pop()
        self.assertEqual(['remove'], self.steps)

    def test_other_location_that_was_never_saved(self):
        del self.places[1]['id']
        self.ids = {7, 9}
        self.pop()
        self.assertIn('see a', self.steps)

    def test_store_of_another_glance(self):
        del self.stores['a'], self.stores['c']
        exc = self.assertRaises(failures.LastCopy, self.pop)
        self.assertIn('store a is none of this Glance', exc.msg)
        self.assertNotIn('remove', self.steps)

    def test_other_cluster_than_the_location_says(self):
        self.stores['a'].site.fsid = 'another'
        self.pop()
        self.assertIn('see c', self.steps)
