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

"""The tests of mixed stores with Swift, with Cinder, and with all at once."""

import contextlib
import os
import signal

from lab import faults
from lab import process
from tests.functional.api import base
from tests.functional.api import client
from tests.functional.api import mixed
from tests.mixed import services


class MixedStoresTestCase(mixed.MixedStoresTests, base.OwnGlanceTestCase):
    """Tests whose service the class starts."""

    service = None

    def held(self, image_id):
        return self.service.held(image_id)

    @contextlib.contextmanager
    def site_cut(self, site):
        """Have the cluster of a site not answer for as long as it takes."""
        cluster = self.cluster(site)
        faults.cause(cluster, 'freeze')
        try:
            yield
        finally:
            faults.heal(cluster)

    def test_deleted_while_a_site_does_not_answer(self):
        image_id = self.uploaded(self.api, self.data, *mixed.SITES, self.stock)
        with self.site_cut('dcn0'):
            self.api.images.delete(image_id)
            self.assertNothingHeld(image_id)
        process.wait_for('dcn0 without the image', lambda: (
            image_id not in self.cluster('dcn0').images()
            and image_id not in self.cluster('dcn0').trash()), 60)
        self.assertGone(image_id)

    def test_imported_while_a_site_does_not_answer(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        with self.site_cut('dcn0'):
            self.api.images.image_import(
                image_id, 'glance-direct',
                stores=['dcn0', 'central', self.stock], allow_failure=True)
            self.api.wait(image_id, 'central', self.stock, failed=['dcn0'])
            self.assertHeld(image_id)
        self.copy(image_id, 'dcn0')
        self.api.wait(image_id, *mixed.SITES, self.stock)
        self.assertStored(image_id, self.data, *mixed.SITES)
        self.api.images.delete(image_id)
        self.assertGone(image_id)

    def kill(self):
        """Kill the Glance, and start it again."""
        service = self.own.worker.service
        for pid in (service.pid, *service.worker_pids()):
            os.kill(pid, signal.SIGKILL)
        process.wait_for('port', lambda: process.is_free(service.port), 20)
        self.own.start()

    def settled(self, image_id):
        """Wait until nothing goes on with an image, and return it."""
        def ended():
            image = self.api.images.get(image_id)
            busy = (image['status'] in ('importing', 'uploading', 'saving')
                    or image.get('os_glance_importing_to_stores')
                    or image.get('os_glance_import_task'))
            return None if busy else image
        return process.wait_for('the image to be settled', ended, 120)

    def test_killed_while_importing(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['dcn0', self.stock])
        process.wait_for('import', lambda: self.api.images.get(
            image_id)['status'] != 'uploading', 30, .01)
        self.kill()
        image = self.settled(image_id)
        there = client.stores_of(image)
        self.assertEqual('active' if there else 'queued', image['status'])
        if not there:
            self.api.stage(image_id, self.data)
            self.api.images.image_import(image_id, 'glance-direct',
                                         stores=['dcn0', self.stock])
        elif there != {'dcn0', self.stock}:
            self.copy(image_id, *{'dcn0', self.stock} - there)
        self.assertDescribes(
            self.api.wait(image_id, 'dcn0', self.stock), self.data)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertHeld(image_id)
        self.api.images.delete(image_id)
        self.assertGone(image_id)

    def test_killed_while_copying(self):
        image_id = self.uploaded(self.api, self.data, 'central')
        self.copy(image_id, 'dcn0', self.stock)
        process.wait_for('copy', lambda: 'dcn0' in client.stores_of(
            self.api.images.get(image_id)), 30, .01)
        self.kill()
        there = client.stores_of(self.settled(image_id))
        self.assertIn('central', there)
        rest = {'dcn0', self.stock} - there
        if rest:
            self.copy(image_id, *rest)
        self.api.wait(image_id, *mixed.SITES, self.stock)
        self.assertStored(image_id, self.data, *mixed.SITES)
        self.assertHeld(image_id)
        self.api.images.delete(image_id)
        self.assertGone(image_id)


class SwiftTest(MixedStoresTestCase):
    """``central:dcn,dcn0:dcn,away:dcn,swift:swift``."""

    stock = 'swift'
    # Three segments: glance_store 5.7 cannot write the last one if it is
    # smaller than the others.
    size = 3 * services.SEGMENT

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.service = cls.use_for_class(services.Swift())
        cls.start_own(mixed.stores(
            cls.make_folder(), swift=cls.service.store()),
            overrides=mixed.OVERRIDES)

    @contextlib.contextmanager
    def proxy_down(self):
        """Have no proxy for as long as the block takes."""
        self.service.service.proxy.stop()
        try:
            yield
        finally:
            self.service.service.start_server('proxy')

    def delete(self, image_id):
        """Delete an image, and return the status of the answer."""
        return self.api.request(
            'DELETE', '/v2/images/%s' % image_id).status_code

    def test_imported_while_swift_is_away(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        with self.proxy_down():
            self.api.images.image_import(
                image_id, 'glance-direct', stores=['swift', *mixed.SITES],
                allow_failure=True)
            self.api.wait(image_id, *mixed.SITES, failed=['swift'])
        self.assertStored(image_id, self.data, *mixed.SITES)
        self.assertNothingHeld(image_id)
        self.assertNothingStaged()
        self.copy(image_id, 'swift')
        self.api.wait(image_id, *mixed.SITES, 'swift')
        self.assertHeld(image_id)

    def test_copied_and_read_while_swift_is_away(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0', 'swift')
        with self.proxy_down():
            self.assertSame(self.data,
                            self.api.download(image_id, prefer='swift'))
            self.copy(image_id, 'central')
            self.api.wait(image_id, 'dcn0', 'swift', 'central')
        self.assertStored(image_id, self.data, *mixed.SITES)

    def test_deleted_while_swift_is_away(self):
        image_id = self.uploaded(self.api, self.data, *mixed.SITES, 'swift')
        with self.proxy_down():
            # As stock Glance: the location in Swift remains, and the image
            # with it.
            self.assertEqual(500, self.delete(image_id))
            self.assertEqual({'swift'}, client.stores_of(
                self.api.images.get(image_id)))
        self.assertEqual(204, self.delete(image_id))
        self.assertGone(image_id)


class CinderTest(MixedStoresTestCase):
    """``central:dcn,dcn0:dcn,away:dcn,cinder:cinder``."""

    stock = 'cinder'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.service = cls.use_for_class(services.Cinder())
        cls.start_own(mixed.stores(
            cls.make_folder(), cinder=cls.service.store()),
            overrides=dict(mixed.OVERRIDES, **cls.service.overrides()),
            prefix=cls.service.prefix)


class AllTest(base.OwnGlanceTestCase):
    """``central:dcn,dcn0:dcn,swift:swift,cinder:cinder,nfs:file``."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.nfs = cls.make_folder()
        cls.swift = cls.use_for_class(services.Swift())
        cls.cinder = cls.use_for_class(services.Cinder())
        cls.start_own(dict(
            base.rbd_stores(sites=mixed.SITES),
            swift=cls.swift.store(), cinder=cls.cinder.store(),
            nfs=('file', {'filesystem_store_datadir': cls.nfs})),
            overrides=dict(mixed.OVERRIDES, **cls.cinder.overrides()),
            prefix=cls.cinder.prefix)

    def setUp(self):
        super().setUp()
        self.data = base.random_data(3 * services.SEGMENT)

    def held(self, image_id):
        """Return what each stock store holds under an image's ID."""
        path = self.nfs / image_id
        return {'swift': self.swift.held(image_id),
                'cinder': self.cinder.held(image_id),
                'nfs': path.read_bytes() if path.exists() else None}

    def assertEverywhere(self, image_id):
        """Each store has the image's data, and nothing is staged."""
        self.assertStored(image_id, self.data, *mixed.SITES)
        for data in self.held(image_id).values():
            self.assertSame(self.data, data)
        self.assertEqual([], self.own.worker.staged())

    def assertNowhere(self, image_id):
        """No store has anything of the image, and nothing is staged."""
        process.wait_for('stores without the image', lambda: not any(
            data is not None for data in self.held(image_id).values()), 30)
        self.assertNoTrace(image_id, *mixed.SITES)
        self.assertEqual([], self.own.worker.staged())

    def test_imported_into_all_at_once(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.stage(image_id, self.converted(self.data, 'qcow2'))
        self.api.images.image_import(image_id, 'glance-direct',
                                     all_stores=True)
        image = self.api.wait(image_id, *mixed.SITES, 'swift', 'cinder', 'nfs')
        self.assertDescribes(image, self.data)
        self.assertEverywhere(image_id)
        self.api.images.delete(image_id)
        self.assertNowhere(image_id)

    def test_copied_from_each_to_all_others(self):
        stores = {*mixed.SITES, 'swift', 'cinder', 'nfs'}
        for source in ('swift', 'cinder', 'nfs', 'dcn0'):
            image_id = self.uploaded(self.api, self.data, source)
            self.api.images.image_import(
                image_id, 'copy-image', stores=sorted(stores - {source}))
            self.api.wait(image_id, *stores)
            self.assertEverywhere(image_id)
            self.api.images.delete(image_id)
            self.assertNowhere(image_id)
