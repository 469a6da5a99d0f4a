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

import io
import os
import threading
from unittest import mock

from glance_store import exceptions
from glance_store import location
from glance_store import multi_backend

from glance_dcn.ceph import connection
from glance_dcn.runtime import process
from glance_dcn.sites import limits
from glance_dcn.store import config_watch
from glance_dcn.store import driver
from glance_dcn.store import dynamic_stores
from tests import releases
from tests.unit.store import sites


class TestSites(sites.SitesCase):

    def test_there_at_the_start(self):
        self.put(store_description='an edge')
        self.start()
        self.assertEnabled(dcn7='rbd')
        self.assertTrue(self.is_dcn(self.store()))
        self.assertEqual('an edge', self.conf.dcn7.store_description)
        multi_backend.verify_store()

    @releases.with_weights
    def test_comes(self):
        watch = self.start()
        self.assertRaises(exceptions.UnknownScheme, self.store)
        self.put(weight=5)
        watch.poll()
        self.assertEnabled(dcn7='rbd')
        self.assertEqual(['dcn', 'rbd'], self.schemes())
        self.assertEqual(5, self.store().conf.dcn7.weight)
        store = self.store()
        found = location.SCHEME_TO_CLS_BACKEND_MAP['rbd']
        self.assertEqual(['dcn7'], [
            name for name, info in found.items()
            if (store.url_prefix + 'x').startswith(info['store'].url_prefix)])

    def test_nobody_sees_a_dict_change(self):
        watch = self.start()
        stores = location.SCHEME_TO_CLS_BACKEND_MAP['rbd']
        enabled = self.conf.enabled_backends
        seen = dict(stores), dict(enabled)
        self.put()
        watch.poll()
        self.assertEqual(seen, (stores, enabled))
        # As each look-up of a store does:
        enabled = self.conf.enabled_backends
        count = len(enabled)
        self.store()
        self.assertEqual(count, len(enabled))

    @releases.with_weights
    def test_changes(self):
        watch = self.start()
        self.put(weight=5, store_description='old', dcn_max_transfers=3)
        watch.poll()
        before = self.store()
        self.put(weight=6, dcn_bandwidth_limit=7, rbd_store_pool='other')
        watch.poll()
        self.assertEqual((6, None), (self.conf.dcn7.weight,
                                     self.conf.dcn7.store_description))
        self.assertEqual('other', self.store().pool)
        self.assertIs(before.site.limits, self.store().site.limits)
        self.assertEqual((0, 7), (before.site.limits.max_transfers,
                                  before.site.limits.bandwidth))
        self.assertIn('dcn_bandwidth_limit, dcn_max_transfers, '
                      'rbd_store_pool, store_description, weight',
                      self.log.output)

    @releases.with_weights
    def test_is_built_anew_only_where_it_must(self):
        watch = self.start()
        self.put(weight=5)
        watch.poll()
        before = self.store()
        self.put(weight=6, dcn_max_transfers=2)
        watch.poll()
        self.assertIs(before, self.store())
        self.assertEqual((6, 2), (before.conf.dcn7.weight,
                                  before.site.limits.max_transfers))
        self.put(weight=6, rbd_store_user='else')
        watch.poll()
        self.assertIsNot(before, self.store())
        self.assertEqual(0, before.site.limits.max_transfers)

    def test_unchanged_is_left_alone(self):
        self.put()
        watch = self.start()
        store = self.store()
        watch.poll()
        os.utime(self.folder / 'dcn7.conf', (2, 2))
        watch.poll()
        self.assertIs(store, self.store())

    def test_nothing_is_substituted(self):
        # Users are shown the description.
        self.put(store_description='$debug ${glance_store.default_backend}')
        self.start()
        self.assertEqual('$debug ${glance_store.default_backend}',
                         self.conf.dcn7.store_description)

    def test_taken_away(self):
        path = self.put()
        watch = self.start()
        path.unlink()
        watch.poll()
        # Maybe it is being replaced.
        self.assertEnabled(dcn7='rbd')
        watch.poll()
        self.assertEnabled(dcn7='http')
        self.assertEqual(['dcn', 'http', 'rbd'], self.schemes())
        store = self.store()
        self.assertTrue(self.is_dcn(store))
        error = self.assertRaises(
            exceptions.StoreAddDisabled, store.add, 'image', io.BytesIO(b'x'),
            1, 'sha512')
        self.assertIn('dcn7', str(error))
        self.assertIn('taken away', str(error))
        # Its images are found: the way to them is as before.
        location.get_location_from_uri_and_backend(
            store.url_prefix + 'image/snap', 'dcn7')
        # It is an http store in name only.
        self.assertRaises(
            exceptions.BadStoreUri,
            location.get_location_from_uri_and_backend,
            'http://127.0.0.1/', 'dcn7')

    def test_comes_back(self):
        path = self.put()
        watch = self.start()
        path.unlink()
        watch.poll()
        watch.poll()
        self.put()
        watch.poll()
        self.assertEnabled(dcn7='rbd')
        self.assertEqual(['dcn', 'rbd'], self.schemes())
        self.assertNotIn('http', location.SCHEME_TO_CLS_BACKEND_MAP)
        self.assertFalse(self.store().site.retired)

    def test_replaced_by_removing_it_first(self):
        path = self.put()
        watch = self.start()
        for weight in range(3):
            path.unlink()
            watch.poll()
            self.put(weight=weight)
            watch.poll()
            self.assertEnabled(dcn7='rbd')

    def test_folder_gone_is_not_sites_gone(self):
        self.put()
        watch = self.start()
        self.folder.rename(self.root / 'elsewhere')
        for _ in range(4):
            watch.poll()
        self.assertEnabled(dcn7='rbd')

    def test_dropped(self):
        path = self.put()
        watch = self.start()
        watch.stores.drop('dcn7')
        # Not as long as there is a file.
        self.assertEnabled(dcn7='rbd')
        path.unlink()
        watch.poll()
        watch.poll()
        watch.stores.drop('dcn7')
        self.assertEnabled()
        self.assertEqual([], self.schemes())
        self.assertEqual(['central'], list(self.tasks.sites))
        self.assertNotIn('http', location.SCHEME_TO_CLS_BACKEND_MAP)
        self.assertRaises(exceptions.UnknownScheme, self.store)
        self.put(dcn_max_transfers=9)
        watch.poll()
        self.assertEnabled(dcn7='rbd')
        self.assertEqual(9, self.store().site.limits.max_transfers)

    def test_clashes(self):
        self.put('central')
        self.put('glance_store')
        self.put('debug')
        self.start()
        self.assertEnabled()
        for words in ('central in enabled_backends', '[glance_store] is',
                      '[debug] is'):
            self.assertIn(words, self.log.output)

    def test_values(self):
        watch = self.start()
        self.put(rbd_store_chunk_size='heavy')
        self.put('dcn8', dcn_max_transfers=-1)
        self.put('dcn9', dcn_surprise=1)
        watch.poll()
        self.assertEnabled(dcn9='rbd')
        for words in ('rbd_store_chunk_size: ', 'dcn_max_transfers: ',
                      "'dcn_surprise'"):
            self.assertIn(words, self.log.output)

    def test_one_that_cannot_be_set_up_is_told_of_once(self):
        self.start()

        def fail(*args, **kwargs):
            raise ValueError('no way')
        watch = config_watch.ConfigWatch(self.conf, fail, self.tasks)
        self.put()
        for _ in range(3):
            watch.poll()
        self.assertEqual(1, self.log.output.count('cannot be set up: no way'))
        self.assertEnabled()

    def test_changed_one_that_cannot_be_set_up(self):
        class Store(driver.Store):
            # glance_store looks for the class of locations there.
            __module__ = driver.__name__

            def configure_add(self):
                super().configure_add()
                if self.pool == 'bad':
                    raise exceptions.BadStoreConfiguration(
                        store_name=self.name, reason='no way')
        self.start()
        watch = config_watch.ConfigWatch(self.conf, Store, self.tasks)
        self.put(dcn_max_transfers=3)
        watch.poll()
        before = self.store()
        self.put(rbd_store_pool='bad', dcn_max_transfers=5)
        watch.poll()
        self.assertIn('no way', self.log.output)
        # The one that goes on being used has what it had.
        self.assertIs(before, self.store())
        self.assertNotEqual('bad', self.conf.dcn7.rbd_store_pool)
        self.assertEqual(3, before.site.limits.max_transfers)
        self.assertIs(before.site, self.tasks.sites['dcn7'])
        known = process.get(connection.Connections)
        self.assertIs(before.site.connection, known.get(before.site.config))
        self.put(rbd_store_pool='good')
        watch.poll()
        after = self.store()
        self.assertIs(after.site, self.tasks.sites['dcn7'])
        self.assertIs(after.site.connection, known.get(after.site.config))
        self.assertIsNot(before.site.connection,
                         known.get(before.site.config))

    def test_value_that_oslo_config_kept_too_long(self):
        # A request was looking it up while it was changed.
        watch = self.start()
        stale = self.conf.enabled_backends
        self.put()
        watch.poll()
        self.conf._ConfigOpts__cache['DEFAULT', 'enabled_backends'] = stale
        self.conf._ConfigOpts__cache[None, 'enabled_backends'] = stale
        watch.poll()
        self.assertEnabled(dcn7='rbd')

    def test_change_by_several_threads(self):
        self.start()
        threads = [threading.Thread(
            target=dynamic_stores.set_types,
            args=(self.conf, {'t%d' % n: 'rbd'}))
            for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEnabled(**{'t%d' % n: 'rbd' for n in range(20)})

    def test_without_a_folder(self):
        self.folder = ''
        watch = self.start()
        watch.poll()
        self.assertEnabled()


class TestLimits(sites.SitesCase):

    def change(self, **central):
        self.write_conf(**central)
        path = self.root / 'glance-api.conf'
        # Whatever the clock's resolution.
        os.utime(path, (1, os.stat(path).st_mtime + 1))

    def assertLimits(self, max_transfers, bandwidth):
        found = limits.get('central')
        self.assertEqual((max_transfers, bandwidth),
                         (found.max_transfers, found.bandwidth))

    def test_at_the_start(self):
        self.start(dcn_max_transfers=4, dcn_bandwidth_limit=2.5)
        self.assertLimits(4, 2.5)

    def test_changed(self):
        watch = self.start(dcn_bandwidth_limit=2.5)
        self.change(dcn_max_transfers=2, dcn_bandwidth_limit=5)
        watch.poll()
        self.assertLimits(2, 5)
        self.change()
        watch.poll()
        self.assertLimits(0, 0)

    @releases.with_weights
    def test_nothing_else_is_taken_over(self):
        watch = self.start(weight=1)
        self.change(weight=2, dcn_bandwidth_limit=5, rbd_store_pool='other')
        watch.poll()
        self.assertLimits(0, 5)
        self.assertEqual((1, 'images'), (self.conf.central.weight,
                                         self.store('central').pool))

    def test_broken_file(self):
        watch = self.start(dcn_bandwidth_limit=2.5)
        for bad in ('-1', 'fast'):
            self.change(dcn_bandwidth_limit=bad)
            watch.poll()
            self.assertLimits(0, 2.5)
        self.assertIn('Limits stay as they are', self.log.output)
        self.change(dcn_bandwidth_limit=4)
        watch.poll()
        self.assertLimits(0, 4)

    def test_option_is_registered_meanwhile(self):
        # By another thread, in a dict that oslo.config is walking.
        watch = self.start(dcn_bandwidth_limit=2.5)
        self.change(dcn_bandwidth_limit=5)
        with mock.patch.object(self.conf, '_all_opt_infos', side_effect=(
                RuntimeError('dictionary changed size during iteration'))):
            self.assertRaises(RuntimeError, watch.poll)
        watch.poll()
        self.assertLimits(0, 5)

    @releases.with_defaults
    def test_shared_section(self):
        watch = self.start()
        self.change(weight='1\n[backend_defaults]\ndcn_max_transfers = 3')
        watch.poll()
        self.assertLimits(3, 0)

    def test_of_site_files_are_not_looked_for_here(self):
        self.put(dcn_bandwidth_limit=3)
        watch = self.start()
        self.change(dcn_bandwidth_limit=5)
        watch.poll()
        self.assertEqual(3, limits.get('dcn7').bandwidth)
