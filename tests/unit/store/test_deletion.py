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

"""Deleting an image: from all of its stores, or from none."""

import contextlib
import functools
import types
from unittest import mock

import fixtures
from glance import location as glance_location
from glance_store import exceptions
from oslotest import base
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import images
from glance_dcn.runtime import native
from glance_dcn.store import deletion
from glance_dcn.store import driver
from glance_dcn.store import failures
from glance_dcn.store import location
from glance_dcn.tasks import queue
from tests.unit import glance_stores
from tests.unit.store import pools

IMAGE = '0d4cd62b-9e7b-4f4a-9d7a-b3bb39d9e6c5'


class FakeSite:
    """A site with one image; what is done to it is in ``steps``."""

    available = True
    address = round_trip = known_fsid = None
    pool = 'images'

    def __init__(self, name):
        self.name = name
        self.health = health.Health(health.UP)
        self.steps = []
        self.error = self.late_error = None
        # What it waits for before it answers.
        self.answers = native.Queue()
        self.hangs = False
        self.access = mock.Mock()
        self.access.known_refusal.return_value = None
        self.suspect = mock.Mock()
        self.connection = self

    @contextlib.contextmanager
    def open_pool(self, pool):
        yield pools.Pool()

    def address_of(self, ioctx):
        return 'address'

    def name_lock(self, ioctx, image):
        return contextlib.nullcontext()

    def removal(self, *unused):
        return self

    def prepare(self):
        if self.hangs:
            self.answers.get()
        if self.error:
            raise self.error
        self.steps.append('prepared')

    def finish(self):
        if self.late_error:
            raise self.late_error
        self.steps.append('removed')

    def undo(self):
        self.steps.append('undone')


class FakeStore:

    conf = database = None
    answer = driver.Store.answer

    def __init__(self, name, tasks, siblings):
        self.name = name
        self.tasks = tasks
        self.siblings = siblings
        self.site = FakeSite(name)

    def checked_for_deletion(self, location):
        return location.store_location


class TestImageDeletion(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.logged = self.useFixture(fixtures.FakeLogger())
        self.tasks = mock.Mock(spec=queue.TaskQueue)
        self.record = self.tasks.defer
        self.stores = {}
        for name in ('central', 'dcn0', 'dcn1'):
            self.add_store(name)
        self.useFixture(glance_stores.Map(**dict.fromkeys([
            *self.stores, *('edge%d' % number for number in range(20))])))
        self.requests = deletion.Requests()
        self.asked = []

    def be_patient(self, **patience):
        self.requests = deletion.Requests(deletion.Patience(**patience))

    def add_store(self, name):
        self.stores[name] = FakeStore(name, self.tasks, self.stores)

    def delete(self, context, image_id, place):
        if place['metadata']['store'] == 'swift':
            return
        store = self.stores[place['metadata']['store']]
        self.asked.append(store.name)
        loc = location.StoreLocation({}, None)
        loc.parse_uri(place['url'])
        found = self.requests.delete(store, loc)
        if not found.deferred:
            found.store.answer(found)

    def image(self):
        """Return Glance's image, at whose stores ours are asked."""
        places = [{'url': 'rbd://%s/images/%s/snap' % (name, IMAGE),
                   'metadata': {'store': name}, 'status': 'active',
                   'id': name} for name in self.stores]
        return glance_location.ImageProxy(types.SimpleNamespace(
            image_id=IMAGE, locations=places, status='active',
            delete=lambda: None), None, None, types.SimpleNamespace(
                delete_image_location_from_backend=self.delete))

    def steps(self):
        return {name: store.site.steps
                for name, store in self.stores.items()}

    def recorded(self):
        """Return the sites of the tasks, which are recorded at once."""
        self.record.assert_called_once()
        return [task.site for task in self.record.call_args.args[0]]

    def site(self, name):
        return self.stores[name].site

    def test_first_call_removes_it_from_all(self):
        asked_when_removed = []
        for store in self.stores.values():
            store.site.finish = lambda: asked_when_removed.append(
                len(self.asked))
        self.image().delete()
        self.assertEqual(list(self.stores), self.asked)
        self.assertEqual([1, 1, 1], asked_when_removed)
        self.assertEqual([], self.recorded())

    def test_nothing_is_removed_if_one_refuses(self):
        self.site('dcn1').error = images.InUse('it has clones')
        self.assertRaises(exceptions.InUseByStore, self.image().delete)
        self.assertEqual({'central': ['prepared', 'undone'],
                          'dcn0': ['prepared', 'undone'], 'dcn1': []},
                         self.steps())
        self.record.assert_not_called()
        # The next request asks anew.
        self.site('dcn1').error = None
        self.image().delete()
        self.assertEqual(['prepared', 'removed'], self.site('dcn1').steps)

    def test_store_that_may_only_be_read(self):
        self.site('central').access.require_write.side_effect = (
            errors.ReadOnly('central', 'glance-dcn0'))
        exc = self.assertRaises(failures.DeleteDenied, self.image().delete)
        self.assertIn('ask the Glance of site central for it', exc.msg)
        self.assertEqual(['prepared', 'undone'], self.site('dcn0').steps)

    def test_store_without_the_image(self):
        self.site('dcn0').error = rbd.ImageNotFound('no such image')
        self.assertRaises(exceptions.NotFound, self.image().delete)
        # Glance goes on after that.
        self.assertEqual(['central', 'dcn0'], self.asked)
        self.assertEqual(['prepared', 'removed'], self.site('dcn1').steps)

    def test_no_thread_can_be_started(self):
        # The limit of threads of a container, say.
        for most in (0, 1):
            self.record.reset_mock()
            started = []

            def fail(name, *args):
                if len(started) >= most:  # noqa: B023
                    raise RuntimeError("can't start new thread")
                started.append(name)  # noqa: B023
                return native.start(name, *args)
            self.requests = deletion.Requests(
                deletion.Patience(together=0.5), fail)
            self.image().delete()
            # What is not removed is recorded; nothing waits for ever.
            self.assertEqual([] if most else list(self.stores),
                             self.recorded())
            self.assertIn('pids.max', self.logged.output)
            self.assertEqual([0, 0, 0], [
                store.site.suspect.call_count
                for store in self.stores.values()])

    def test_those_that_are_prepared_are_let_go_of(self):
        names = ('central', 'dcn0')
        undone = native.Queue()
        for name in names:
            self.site(name).undo = functools.partial(undone.put, name)

        class Health:
            """That of a site that is waited for, until the user gives up."""

            @property
            def state(_self):  # noqa: N805
                if all(self.site(name).steps for name in names):
                    raise KeyboardInterrupt
                return health.UP
        self.site('dcn1').hangs = True
        self.addCleanup(self.site('dcn1').answers.put, True)
        self.site('dcn1').health = Health()
        self.assertRaises(KeyboardInterrupt, self.image().delete)
        self.assertEqual(set(names), {native.get(undone, 30) for _ in names})

    def test_sites_that_do_not_answer_in_time(self):
        self.be_patient(decision=0.1, together=0.2)
        self.site('central').hangs = self.site('dcn1').hangs = True
        self.image().delete()
        self.assertEqual(list(self.stores), self.asked)
        self.assertEqual(['central', 'dcn1'], self.recorded())
        # Whether they are away is found out.
        self.assertEqual([1, 0, 1], [store.site.suspect.call_count
                                     for store in self.stores.values()])
        self.assertEqual(['prepared', 'removed'], self.site('dcn0').steps)
        for name in ('central', 'dcn1'):
            self.site(name).answers.put(True)

    def test_site_that_is_away(self):
        self.site('dcn0').hangs = True
        self.site('dcn0').health = health.Health(health.DOWN)
        self.image().delete()
        self.assertEqual(['dcn0'], self.recorded())
        self.site('dcn0').answers.put(True)

    def test_site_that_is_away_and_may_only_be_read(self):
        self.site('central').hangs = True
        self.site('central').health = health.Health(health.DOWN)
        self.site('central').access.known_refusal.return_value = (
            errors.ReadOnly('central', 'glance-dcn0'))
        self.assertRaises(failures.DeleteDenied, self.image().delete)
        self.assertEqual(['prepared', 'undone'], self.site('dcn0').steps)
        for name in ('dcn0', 'dcn1'):
            del self.stores[name]
        self.assertRaises(failures.DeleteDenied, self.image().delete)
        self.record.assert_not_called()
        for _ in range(2):
            self.site('central').answers.put(True)

    def test_error_after_others_have_removed_theirs(self):
        self.site('dcn0').late_error = images.InUse('just opened')
        self.image().delete()
        self.assertEqual(['dcn0'], self.recorded())
        self.assertIn('just opened', self.logged.output)

    def test_error_of_the_only_store(self):
        del self.stores['dcn0'], self.stores['dcn1']
        self.site('central').late_error = images.InUse('just opened')
        self.assertRaises(exceptions.InUseByStore, self.image().delete)
        self.assertEqual([], self.recorded())

    def test_cannot_be_recorded(self):
        self.record.side_effect = queue.NotRecorded('central', 'full', 'wait')
        self.site('dcn0').error = errors.Unreachable('dcn0', 'away', 'wait')
        self.assertRaises(failures.TimeoutError, self.image().delete)

    def test_removed_from_one_store(self):
        image = self.image()
        glance_location.StoreLocations(
            image, list(image.image.locations)).pop(1)
        self.assertEqual({'central': [], 'dcn0': ['prepared', 'removed'],
                          'dcn1': []}, self.steps())

    def test_more_stores_than_threads(self):
        self.be_patient(workers=2)
        for number in range(20):
            self.add_store('edge%d' % number)
        image = self.image()
        image.delete()
        self.assertEqual({('prepared', 'removed')},
                         {tuple(found) for found in self.steps().values()})
        # Glance marks them in the database all at once.
        self.assertEqual([], [place['id'] for place in image.image.locations
                              if 'id' in place])

    def test_glance_marks_each_of_a_few(self):
        image = self.image()
        image.delete()
        self.assertEqual(['central', 'dcn0', 'dcn1'], [
            place['id'] for place in image.image.locations])
        for number in range(20):
            self.add_store('edge%d' % number)
        image = self.image()
        # A store of another kind may still refuse.
        image.image.locations.append({
            'url': 'swift://image', 'metadata': {'store': 'swift'},
            'status': 'active', 'id': 'swift'})
        image.delete()
        self.assertEqual(24, len([place for place in image.image.locations
                                  if 'id' in place]))

    def test_client_that_was_cut_off_is_replaced(self):
        self.site('dcn0').error = rbd.OSError('blocklisted', errno=108)
        real = self.site('dcn0').open_pool

        def open_pool(pool):
            if real is not None and len(opened) == 1:
                self.site('dcn0').error = None
            opened.append(pool)
            return real(pool)
        opened = []
        self.site('dcn0').open_pool = open_pool
        self.image().delete()
        self.assertEqual(2, len(opened))
        self.assertEqual(['prepared', 'removed'], self.site('dcn0').steps)


class TestOtherStores(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.refusals = {'dcn0': None, 'central': errors.ReadOnly(
            'central', 'glance-dcn0')}
        stores = {name: types.SimpleNamespace(
            url_prefix='rbd://%s/images/' % name,
            site=types.SimpleNamespace(access=types.SimpleNamespace(
                refusal=lambda name=name: self.refusals[name])))
            for name in self.refusals}
        self.located = ['dcn0', 'central']
        self.store = stores['dcn0']
        self.store.siblings = stores
        self.store.database = types.SimpleNamespace(locations=lambda image: {
            'rbd://%s/images/%s/snap' % (name, image)
            for name in self.located})
        self.loc = types.SimpleNamespace(image=IMAGE)

    def check(self, *unused, **also_unused):
        deletion.check_other_stores(self.store, self.loc)

    def test_of_a_store_that_may_only_be_read(self):
        exc = self.assertRaises(failures.DeleteDenied, self.check)
        self.assertIn('ask the Glance of site central for it', exc.msg)

    def test_of_a_store_that_it_is_not_in(self):
        self.located = ['dcn0', 'dcn9']
        self.check()

    def test_of_a_store_that_may_be_written(self):
        self.refusals['central'] = None
        self.check()

    def image(self):
        """Return Glance's image, with the check in place of its stores."""
        locations = [{'url': 'rbd://%s/images/%s/snap' % (name, IMAGE),
                      'metadata': {'store': name}, 'status': 'active'}
                     for name in self.located]
        return glance_location.ImageProxy(types.SimpleNamespace(
            image_id=IMAGE, locations=locations, status='active',
            delete=lambda: None), None, None, types.SimpleNamespace(
                delete_image_location_from_backend=self.check))

    def test_glance_deletes_the_image(self):
        self.assertRaises(failures.DeleteDenied, self.image().delete)

    def test_glance_removes_it_from_one_store(self):
        image = self.image()
        locations = glance_location.StoreLocations(image, image.locations)
        locations.pop(0)
        self.assertEqual(1, len(locations))
