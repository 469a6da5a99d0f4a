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

"""What copy-image takes over, and what it leaves to stock."""

import contextlib
import functools
import importlib.util
import types
from unittest import mock

import fixtures
from oslo_config import cfg
from oslotest import base
import testtools

from glance.async_.flows import api_image_import
from glance.common import exception
from glance import context
from glance import db
from glance import location
from glance import quota
from taskflow.types import failure

from glance_dcn.ceph import client as clients
from glance_dcn.engine import transfer
from glance_dcn.imports import copy_image
from glance_dcn.runtime import process
from glance_dcn.sites import copying
from glance_dcn.sites import site
from glance_dcn.sites import targets as targets_
from glance_dcn.upstream import database as db_of_glance
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins
from tests import runtimes
from tests.unit import glance_stores
from tests.unit.imports import glance


LOCATION = {'url': 'rbd://fsid/images/image/snap',
            'metadata': {'store': 'central'}, 'status': 'active'}


class Site(site.Site):
    """A site whose fsid is not known, and not asked for."""

    def uri(self, image, pool=None):
        return self.name


class TakeOverTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.useFixture(runtimes.Runtime())
        here = site.Site(clients.ClusterConfig('dcn0', 'images'), 22)
        self.useFixture(glance_stores.Stores(
            central=here, dcn0=here, dcn1=here, nfs=None))
        self.points = plugins.entry_points(plugins.NAMESPACE)
        order = list(self.points)
        self.addCleanup(self.points.__setitem__, slice(None), order)
        plugins.prefer_ours()
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.imports.copy_image.stock.get_flow',
            lambda **kwargs: copy_image.linear_flow.Flow('stock')))
        self.action = FakeAction([LOCATION])

    def get_flow(self, *stores):
        """Return (ours, stock's) of the flow, and what is left of stores."""
        left = list(stores)
        flow = copy_image.get_flow(
            task_id='task', task_type='import', task_repo=None, backend=left,
            action_wrapper=self.action, import_req={},
            context=types.SimpleNamespace(owner='project'))
        names = [type(item).__name__ for item, _ in flow.iter_nodes()]
        return ('_CopyDirectly' in names, 'Flow' in names), left

    def test_all_targets_are_ours(self):
        self.assertEqual(((True, False), []), self.get_flow('dcn0', 'dcn1'))
        self.assertEqual(['dcn0', 'dcn1'], self.action.importing)

    def test_some_targets_are_ours(self):
        self.assertEqual(((True, True), ['nfs']),
                         self.get_flow('dcn0', 'nfs'))
        self.assertEqual(['dcn0'], self.action.importing)

    def test_asked_again_for_the_same_task(self):
        self.get_flow('dcn0', 'nfs')
        self.assertEqual(((True, True), ['nfs']), self.get_flow('nfs'))
        self.assertEqual(((True, True), ['nfs']),
                         self.get_flow('dcn0', 'nfs'))

    def test_lock_is_dropped_before_the_copy_begins(self):
        self.get_flow('dcn0', 'nfs')
        self.action.drop_lock_for_task()
        self.assertEqual([], self.action.importing)
        self.assertTrue(self.action.dropped)

    def test_lock_is_dropped_although_the_image_cannot_be_saved(self):
        self.get_flow('dcn0')
        self.action.remove_importing_stores = mock.Mock(
            side_effect=exception.NotFound)
        self.assertRaises(exception.NotFound, self.action.drop_lock_for_task)
        self.assertTrue(self.action.dropped)

    def test_none_is_ours(self):
        self.check_left_to_stock('nfs')

    def test_no_source_is_ours(self):
        self.action = FakeAction([])
        self.check_left_to_stock('dcn0')

    def test_image_without_a_byte(self):
        self.action = FakeAction([LOCATION], size=0)
        self.check_left_to_stock('dcn0')

    def test_image_has_an_unknown_layer(self):
        self.action._image = self.action._image.base.base
        self.check_left_to_stock('dcn0')

    def test_store_that_is_named_twice(self):
        self.assertEqual(((True, True), ['nfs']),
                         self.get_flow('dcn0', 'nfs', 'dcn0', 'nfs'))
        self.assertEqual(['dcn0'], self.action.importing)

    @testtools.skipUnless(importlib.util.find_spec('glance.quota.keystone'),
                          'this Glance knows no limits of Keystone')
    def test_limits_of_keystone(self):
        for name in ('image_staging_total', 'image_count_uploading'):
            self.action = FakeAction([LOCATION], size=2 << 20)
            with self.limits(refuses=name) as asked:
                # The list is whole: stock refuses, and undoes what it saved.
                self.check_left_to_stock('dcn0', 'nfs')
            self.assertEqual(('dcn0',), self.counted.pop())
            self.assertEqual(2, asked['image_staging_total'])
        with self.limits(refuses=None):
            self.assertEqual(((True, True), ['nfs']),
                             self.get_flow('dcn0', 'nfs'))

    def test_limits_that_are_not_told(self):
        self.action = FakeAction([LOCATION], size=2 << 20)
        with self.limits(refuses='image_count_uploading',
                         error=ConnectionError('Keystone is away')):
            self.assertRaises(ConnectionError, self.get_flow, 'dcn0')
        self.assertEqual([('dcn0',)] * 2, self.counted)
        self.assertEqual([], self.action.importing)

    @testtools.skipUnless(importlib.util.find_spec('glance.quota.keystone'),
                          'this Glance knows no limits of Keystone')
    def test_limit_is_reached_between_our_question_and_glances(self):
        # Another request takes what is left. No journal is kept.
        plugins.prefer_ours()
        database = self.useFixture(glance.Database())
        for name in ('image_staging_total', 'image_count_uploading'):
            for stores, left in ((['dcn0', 'dcn1'], []),
                                 (['dcn0', 'nfs'], ['nfs'])):
                image = '-'.join([name, *stores])
                database.add_image(image, 'active', locations=[LOCATION],
                                   size=1, properties={
                                       'os_glance_import_task': image})
                kwargs = {'task_id': image, 'image_id': image,
                          'backend': stores}
                counted = functools.partial(importing, image)
                with self.limits(refuses=name, passes=1, counted=counted):
                    self.assertRaises(exception.LimitExceeded,
                                      self.get_glances_flow, **kwargs)
                # Glance was asked with its own stores taken off the list.
                self.assertEqual(left, stores)
                self.assertEqual('dcn0,%s' % (left or ['dcn1'])[0],
                                 self.counted[-1])
                properties = db_of_glance.image(image)['properties']
                self.assertEqual('', properties[db_of_glance.IMPORTING])
                self.assertNotIn(db_of_glance.LOCK, properties)
                self.assertNotIn(image, process.get(copy_image._Taken))

    def get_glances_flow(self, **kwargs):
        """Make the whole flow of a copy, as Glance's executor does."""
        admin = context.get_admin_context()
        admin.project_id = 'project'
        return api_image_import.get_flow(
            task_type='api_image_import', context=admin,
            task_repo=mock.Mock(), image_repo=location.ImageRepoProxy(
                db.ImageRepo(admin, db.get_api()), admin, mock.Mock(),
                mock.Mock()),
            import_req={'method': {'name': 'copy-image'}}, **kwargs)

    @contextlib.contextmanager
    def limits(self, refuses, error=None, passes=0, counted=None):
        """Have Keystone's limits asked, and one of them refuse.

        :param error: what that raises; None: that the limit is exceeded
        :param passes: how often it does not refuse before
        :param counted: returns what counts for the limits
        :returns: context manager that gives a dict of sizes in MiB by limit
        """
        asked = {}
        self.counted = []
        left = [None] * passes

        def enforce(name, context, project, delta=0):
            self.assertEqual('project', project)
            asked[name] = delta
            # What is copied counts for the limits.
            self.counted.append(counted() if counted
                                else tuple(self.action.importing))
            if name == refuses:
                if left:
                    left.pop()
                    return
                raise error or exception.LimitExceeded(body='too much')

        cfg.CONF.set_override('use_keystone_limits', True)
        self.addCleanup(cfg.CONF.clear_override, 'use_keystone_limits')
        with contextlib.ExitStack() as stack:
            for name in ('image_staging_total', 'image_count_uploading'):
                stack.enter_context(fixtures.MonkeyPatch(
                    'glance.quota.keystone.enforce_%s' % name,
                    functools.partial(enforce, name)))
            yield asked

    def test_turned_off(self):
        cfg.CONF.set_override('direct_copy', False, group='glance_dcn')
        self.addCleanup(cfg.CONF.clear_override, 'direct_copy',
                        group='glance_dcn')
        self.check_left_to_stock('dcn0')

    def test_stock_would_win(self):
        self.points.reverse()
        self.check_left_to_stock('dcn0')

    def check_left_to_stock(self, *stores):
        self.assertEqual(((False, True), list(stores)),
                         self.get_flow(*stores))
        self.assertEqual([], self.action.importing)


def importing(image):
    """Return the stores that an image is listed to be imported to."""
    return db_of_glance.image(image)['properties'][db_of_glance.IMPORTING]


class SourcesTest(base.BaseTestCase):

    def test_down_and_local_and_weights(self):
        fake = types.SimpleNamespace
        known = {name: fake(name=name, available=up,
                            connection=fake(round_trip=far))
                 for name, up, far in (('central', True, .001),
                                       ('dcn0', True, .04),
                                       ('dcn1', True, .02),
                                       ('dcn2', False, .01))}
        conf = fake(
            glance_store=fake(default_backend='dcn0'),
            central=fake(weight=0), dcn0=fake(), dcn1=fake(weight=0),
            dcn2=fake(weight=9))
        self.useFixture(glance_stores.Stores(**known, nfs=None))
        found = copy_image._sources([
            {'url': LOCATION['url'], 'metadata': metadata} for metadata in (
                {'store': 'dcn2'}, {'store': 'dcn1'}, {'store': 'nfs'}, {},
                {'store': 'dcn0'}, {'store': 'central'})], conf, known.get)
        self.assertEqual(['dcn0', 'central', 'dcn1', 'dcn2'],
                         [source.site.name for source in found])
        self.assertEqual(('images', 'image', 'snap'),
                         (found[0].pool, found[0].image, found[0].snapshot))


class FakeAction:
    """What stock gives a plugin to change an image with."""

    def __init__(self, locations, **fields):
        self.image_locations = locations
        self.image_id = 'image'
        # As Glance's domain model has it, in the layers that matter.
        self._image = quota.ImageProxy(location.ImageProxy(
            types.SimpleNamespace(**dict({
                'image_id': 'image', 'size': 1, 'checksum': 'a',
                'os_hash_algo': 'sha512', 'os_hash_value': 'b',
                'virtual_size': 1, 'locations': [],
                'extra_properties': {}}, **fields)), None, mock.Mock(**{
                    'get_size_from_uri_and_backend.return_value': 1}),
            mock.Mock()), None, None, None)
        self.importing, self.done, self.failed = [], [], []
        self.removed = []

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def assert_task_lock(self):
        """The lock is there."""

    def drop_lock_for_task(self):
        self.dropped = True

    def add_importing_stores(self, stores):
        self.importing += stores

    def remove_failed_stores(self, stores):
        pass

    def remove_importing_stores(self, stores):
        self.done.append(stores)
        self.importing = [store for store in self.importing
                          if store not in stores]

    def add_failed_stores(self, stores):
        self.failed.append(stores)

    def remove_location_for_store(self, store):
        self.removed.append(store)


class NoteTest(base.BaseTestCase):
    """What Glance is told of each store, and what is undone."""

    def setUp(self):
        super().setUp()
        self.action = FakeAction([])
        self.useFixture(runtimes.Runtime())
        self.stores = self.useFixture(glance_stores.Stores(**{
            name: Site(clients.ClusterConfig(name, 'images'), 22)
            for name in ('dcn0', 'dcn1', 'dcn2')}))

    def copy(self, must_succeed, outcome=None, **kwargs):
        task = types.SimpleNamespace(status='processing')
        return copy_image._CopyDirectly(
            'task', 'import', mock.Mock(**{'get.return_value': task}),
            self.action, ['dcn0', 'dcn1', 'dcn2'], must_succeed,
            copy=lambda *args, **kwargs: types.SimpleNamespace(
                run=lambda: outcome), **kwargs)

    def note(self, copy, copied=(), failed=()):
        told = []
        copy._note(copying.Outcome('central', 1, 1, list(copied), {
            name: OSError('no') for name in failed}), lambda: told.append(1))
        self.assertEqual([1], told)

    def test_each_when_it_is_done(self):
        copy = self.copy(must_succeed=False)
        self.note(copy, copied=['dcn1'])
        self.assertEqual(([['dcn1']], [[]]), (self.action.done,
                                              self.action.failed))
        self.note(copy, copied=['dcn0'], failed=['dcn2'])
        self.assertEqual((['dcn0', 'dcn2'], ['dcn2']), (
            self.action.done[1], self.action.failed[1]))
        self.assertEqual(['dcn1', 'dcn0'], [
            location['metadata']['store']
            for location in glance_interfaces.image_layers(
                self.action._image)[0].locations])

    def test_a_failure_ends_it_if_all_must_succeed(self):
        copy = self.copy(must_succeed=True)
        self.note(copy, copied=['dcn1'])
        self.assertRaises(exception.UploadException, self.note, copy,
                          failed=['dcn2'])
        copy.revert(failure.Failure.from_exception(OSError()))
        self.assertEqual(['dcn0', 'dcn1', 'dcn2'], self.action.removed)
        self.assertEqual(['dcn2'], self.action.failed[-1])

    def test_a_store_is_removed_meanwhile(self):
        copy = self.copy(must_succeed=False)
        self.useFixture(glance_stores.Stores(dcn0=None, dcn1=None))
        error = self.assertRaises(exception.UploadException, self.note, copy,
                                  copied=['dcn1'])
        self.assertIn('store dcn1 failed: it was removed', str(error))

    def copied(self, alone=True, copied=()):
        """Copy to targets that refuse, all of which need not succeed."""
        self.copy(must_succeed=False, alone=alone, outcome=copying.Outcome(
            'central', 1, 1, list(copied), {'dcn0': OSError('may only read')})
            ).execute()

    def test_the_task_fails_if_nothing_was_copied(self):
        error = self.assertRaises(exception.UploadException, self.copied)
        self.assertIn('Copying to store dcn0 failed: may only read',
                      str(error))
        self.copied(copied=['dcn1'])
        # Stock's targets come yet.
        self.copied(alone=False)

    def test_what_is_done_stays_if_it_is_ended_from_outside(self):
        copy = self.copy(must_succeed=True)
        self.note(copy, copied=['dcn1'])
        copy.revert(failure.Failure.from_exception(
            exception.TaskAbortedError()))
        self.assertEqual(['dcn0', 'dcn2'], self.action.removed)
        self.assertEqual(['dcn0', 'dcn2'], self.action.failed[-1])

    def test_another_task_fails(self):
        copy = self.copy(must_succeed=True)
        self.note(copy, copied=['dcn0', 'dcn1', 'dcn2'])
        copy.revert(None)
        self.assertEqual(['dcn0', 'dcn1', 'dcn2'], self.action.removed)


class QuotaTest(base.BaseTestCase):
    """The quota of the owner counts an image once, before any data moves."""

    def setUp(self):
        super().setUp()
        self.useFixture(runtimes.Runtime())
        self.useFixture(glance_stores.Stores(**{
            name: Site(clients.ClusterConfig(name, 'images'), 22)
            for name in ('dcn0', 'dcn1', 'dcn2')}))
        self.begun = mock.Mock()
        self.copy = copy_image._CopyDirectly(
            'task', 'import', None, FakeAction([], size=10),
            ['dcn0', 'dcn1', 'dcn2'], True, copy=self.begun)

    def leave(self, room):
        self.useFixture(fixtures.MonkeyPatch(
            'glance.api.common.get_remaining_quota',
            lambda *args, **kwargs: room))

    def test_there_is_room(self):
        self.leave(10)
        self.copy._copy()
        self.begun.assert_called_once()

    def test_there_is_none(self):
        self.leave(9)
        self.assertRaises(exception.StorageQuotaFull, self.copy._copy)
        self.begun.assert_not_called()


class DescribeTest(base.BaseTestCase):
    """What Glance does not know of an image is set as stock sets it."""

    FOUND = {'md5': 'a', 'sha512': 'b', 'sha256': 'c'}

    def setUp(self):
        super().setUp()
        # The value of another test's Glance would count, too.
        cfg.CONF.set_override('hashing_algorithm', 'sha512')
        self.addCleanup(cfg.CONF.clear_override, 'hashing_algorithm')

    def image(self, **fields):
        return types.SimpleNamespace(**dict({
            'size': None, 'checksum': None, 'os_hash_algo': None,
            'os_hash_value': None, 'virtual_size': None,
            'disk_format': 'raw', 'container_format': 'bare'}, **fields))

    def described(self, **fields):
        image = self.image(**fields)
        copy_image._describe(image, copying.Outcome(
            'central', 10, 10, ['dcn0'], {}, hashes=self.FOUND))
        return image

    def test_nothing_is_known(self):
        self.assertEqual({'md5': None, 'sha512': None},
                         copy_image._hashes(self.image()))
        self.assertEqual(
            self.image(size=10, checksum='a', os_hash_algo='sha512',
                       os_hash_value='b', virtual_size=10),
            self.described())

    def test_what_is_known_stays(self):
        known = dict(size=10, checksum='x', os_hash_algo='sha256',
                     os_hash_value='y', virtual_size=11)
        self.assertEqual({'md5': 'x', 'sha256': 'y'},
                         copy_image._hashes(self.image(**known)))
        self.assertEqual(self.image(**known), self.described(**known))

    def test_algorithm_alone_is_known(self):
        known = {'os_hash_algo': 'sha256'}
        self.assertEqual({'md5': None, 'sha256': None},
                         copy_image._hashes(self.image(**known)))
        self.assertEqual('c', self.described(**known).os_hash_value)

    def test_multihash_that_is_md5(self):
        known = {'checksum': 'x', 'os_hash_algo': 'md5'}
        self.assertEqual({'md5': 'x'},
                         copy_image._hashes(self.image(**known)))

    def test_virtual_size_of_other_formats(self):
        for fields in ({'disk_format': 'qcow2'}, {'container_format': 'ova'}):
            self.assertIsNone(self.described(**fields).virtual_size)

    def test_nothing_was_read(self):
        image = self.image()
        copy_image._describe(image, copying.Outcome(
            'central', 10, 0, ['dcn0'], {}))
        self.assertEqual(self.image(size=10, virtual_size=10), image)


class MessageTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.now = 1000.0
        self.message = copy_image._Message(['dcn0', 'dcn1'],
                                           lambda: self.now)

    def update(self, seconds, data, **standing):
        self.now = 1000.0 + seconds
        return self.message.update(targets_.Standing(**dict({
            'transfer': transfer.Progress(
                bytes_read=data, planned=400 << 20, listed=True, position=0,
                size=0, data=data, written={'dcn0: images/x': data,
                                            'dcn1: images/x': data // 2}),
            'fraction': data / (400 << 20), 'done': 0, 'running': 2,
            'waiting': 0, 'failed': 0, 'stragglers': [], 'left': None},
            **standing)))

    def test_tells_percent_rate_and_each_target(self):
        self.update(0, 0)
        self.assertEqual('Copying: 50 %, 10 MiB/s; 0 of 2 stores done, '
                         '2 running, 0 waiting, 0 failed; dcn0: 200 MiB, '
                         'dcn1: 100 MiB', self.update(20, 200 << 20))

    def test_tells_of_waves(self):
        self.update(0, 0)
        self.assertEqual('Copying: 50 %, 10 MiB/s; 7 of 2 stores done, '
                         '2 running, 160 waiting, 1 failed; about 3 min left; '
                         'dcn0: 200 MiB, dcn1: 100 MiB; dcn5, dcn7: by '
                         'themselves, as they are much slower', self.update(
                             20, 200 << 20, done=7, waiting=160, failed=1,
                             left=200.0, stragglers=['dcn5', 'dcn7']))
        # The rate is that of the present wave.
        self.assertIn(', 5 MiB/s; ', self.update(40, 0) + self.update(
            60, 100 << 20))
        self.assertIn('0 waiting', self.update(70, 0, transfer=None))

    def test_adopted(self):
        self.update(0, 0)
        self.now += 1
        self.assertIn('; dcn1 had it already', self.message.final(
            copying.Outcome('central', 1 << 30, 0, ['dcn1'], {}, ['dcn1'])))

    def test_end(self):
        self.update(0, 0)
        self.now += 10
        self.assertEqual(
            'Copied 400 MiB of data from central to dcn1, 40 MiB/s; copying '
            'to store dcn0 failed: no room',
            self.message.final(copying.Outcome(
                'central', 1 << 30, 400 << 20, ['dcn1'],
                {'dcn0': OSError('no room')})))
