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

"""Tests of a Glance that has a store of a stock type beside stores of ours.

Each test is done with one stock store: that of a folder in
:mod:`test_mixed_stores`, those of other services in :mod:`tests.mixed`.
"""

from lab import process
from tests.functional.api import base

#: Stores of ours that a test may fill.
SITES = ('central', 'dcn0')
#: A store of ours in a cluster that does not answer.
AWAY = 'away'
OVERRIDES = {'image_import_opts': {
    'image_import_plugins': '[dcn_distributed_staging,dcn_image_conversion]'}}


def stores(folder, **others):
    """Return stores of ours, with one that is away, and others.

    :param folder: where the conf file of the one that is away is put
    :param others: stores as :class:`lab.glance.Glance` takes them
    """
    conf = folder / 'away.conf'
    # Nobody listens there.
    conf.write_text('[global]\nfsid = %s\nmon_host = 127.0.0.1:%d\n'
                    'auth_client_required = none\n'
                    % (base.SOME_FSID, process.free_port()))
    away = dict(base.lab().store('dcn0', 'central'), rbd_store_ceph_conf=conf,
                store_description='a site that is away')
    return dict(base.rbd_stores(sites=SITES), **{AWAY: ('dcn', away)},
                **others)


class MixedStoresTests:
    """Tests for a :class:`base.OwnGlanceTestCase` with a stock store.

    :cvar stock: name of that store
    :cvar size: bytes of an image
    """

    stock = None
    size = 2 * base.MiB + 512

    def setUp(self):
        super().setUp()
        self.data = base.random_data(self.size)

    def held(self, image_id):
        """Return what the stock store holds under an image's ID, or None.

        Asked of what is behind the store, not of Glance.
        """
        raise NotImplementedError

    def assertHeld(self, image_id, data=None):
        """The stock store has the image's data."""
        held = self.held(image_id)
        self.assertIsNotNone(held, 'nothing in %s' % self.stock)
        self.assertSame(data or self.data, held)

    def assertNothingHeld(self, image_id):
        """The stock store comes to have nothing of the image."""
        process.wait_for('%s without the image' % self.stock,
                         lambda: self.held(image_id) is None, 30)

    def assertNothingStaged(self):
        """No file of an import is left, once its flow has ended.

        An image is in all stores before that.
        """
        process.wait_for('an empty staging folder',
                         lambda: not self.own.worker.staged(), 30)

    def assertGone(self, image_id):
        """Nothing is left of the image, wherever."""
        self.assertNoTrace(image_id, *SITES)
        self.assertNothingHeld(image_id)
        self.assertNothingStaged()

    def copy(self, image_id, *targets, **options):
        """Copy an image to stores."""
        self.api.images.image_import(image_id, 'copy-image',
                                     stores=list(targets), **options)

    def test_imported_into_all(self):
        image_id = self.uploaded(self.api, self.data, *SITES, self.stock)
        self.assertDescribes(self.api.images.get(image_id), self.data)
        self.assertStored(image_id, self.data, *SITES)
        self.assertHeld(image_id)
        self.assertNothingStaged()
        for store in (*SITES, self.stock):
            self.assertSame(self.data,
                            self.api.download(image_id, prefer=store))
        self.api.images.delete(image_id)
        self.assertGone(image_id)

    def test_uploaded_and_copied_to_all(self):
        image_id = self.new_image(self.api)
        self.api.upload(image_id, self.data, self.stock)
        self.assertHeld(image_id)
        self.copy(image_id, *SITES)
        self.api.wait(image_id, *SITES, self.stock)
        self.assertStored(image_id, self.data, *SITES)
        self.assertNothingStaged()

    def test_each_store_alone_serves_it(self):
        image_id = self.uploaded(self.api, self.data, *SITES, self.stock)
        for gone, left in (('central', {'dcn0', self.stock}),
                           (self.stock, {'dcn0'})):
            self.api.images.delete_from_store(gone, image_id)
            self.api.wait(image_id, *left)
            self.assertSame(self.data, self.api.download(image_id))
        self.assertNoTrace(image_id, 'central')
        self.assertNothingHeld(image_id)

    def test_the_stock_store_alone_serves_it(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0', self.stock)
        self.api.images.delete_from_store('dcn0', image_id)
        self.api.wait(image_id, self.stock)
        self.assertSame(self.data, self.api.download(image_id))
        self.assertNoTrace(image_id, 'dcn0')

    def test_converted_into_all(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.images.image_import(
            image_id, 'web-download', stores=[self.stock, *SITES],
            uri=self.served(self.converted(self.data, 'qcow2')))
        image = self.api.wait(image_id, self.stock, *SITES)
        self.assertEqual(('raw', len(self.data)), (
            image['disk_format'], image['virtual_size']))
        self.assertDescribes(image, self.data)
        self.assertStored(image_id, self.data, *SITES)
        self.assertHeld(image_id)
        self.assertNothingStaged()

    def test_converted_into_the_stock_store_and_copied(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.stage(image_id, self.converted(self.data, 'qcow2'))
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=[self.stock])
        self.assertDescribes(self.api.wait(image_id, self.stock), self.data)
        self.assertHeld(image_id)
        self.copy(image_id, 'dcn0')
        self.api.wait(image_id, self.stock, 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertNothingStaged()

    def test_copied_from_the_stock_store_to_a_site(self):
        image_id = self.uploaded(self.api, self.data, self.stock)
        self.copy(image_id, 'dcn0')
        self.assertDescribes(self.api.wait(image_id, self.stock, 'dcn0'),
                             self.data)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertNoTrace(image_id, 'central')
        self.assertNothingStaged()
        self.assertSame(self.data,
                        self.api.download(image_id, prefer='dcn0'))

    def test_copied_from_a_site_to_the_stock_store(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        self.copy(image_id, self.stock)
        self.api.wait(image_id, 'dcn0', self.stock)
        self.assertHeld(image_id)
        self.assertNothingStaged()
        self.assertSame(self.data,
                        self.api.download(image_id, prefer=self.stock))

    def test_copied_from_a_site_to_all_others(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        self.copy(image_id, self.stock, 'central')
        self.api.wait(image_id, 'dcn0', self.stock, 'central')
        self.assertHeld(image_id)
        self.assertStored(image_id, self.data, *SITES)
        self.assertNothingStaged()

    def test_a_part_from_each(self):
        image_id = self.uploaded(self.api, self.data, self.stock, 'dcn0')
        for store in (self.stock, 'dcn0'):
            answer = self.api.request(
                'GET', '/v2/images/%s/file' % image_id,
                params={'prefer': store},
                headers={'Range': 'bytes=1000-70000'})
            self.assertEqual(206, answer.status_code)
            self.assertSame(self.data[1000:70001], answer.content)

    def test_imported_while_a_site_is_away(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        self.api.images.image_import(
            image_id, 'glance-direct', stores=[AWAY, 'dcn0', self.stock],
            allow_failure=True)
        image = self.api.wait(image_id, 'dcn0', self.stock, failed=[AWAY])
        self.assertDescribes(image, self.data)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertHeld(image_id)
        self.assertNothingStaged()
        self.api.images.delete(image_id)
        self.assertGone(image_id)

    def test_copied_while_a_site_is_away(self):
        for source, target in ((self.stock, 'dcn0'), ('dcn0', self.stock)):
            image_id = self.uploaded(self.api, self.data, source)
            self.copy(image_id, AWAY, target, allow_failure=True)
            self.api.wait(image_id, source, target, failed=[AWAY])
            self.assertStored(image_id, self.data, 'dcn0')
            self.assertHeld(image_id)
            self.assertNothingStaged()

    def test_nothing_remains_where_all_must_succeed(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        self.api.images.image_import(
            image_id, 'glance-direct', stores=['dcn0', self.stock, AWAY],
            allow_failure=False)
        self.api.wait(image_id, status='queued',
                      failed=[AWAY, 'dcn0', self.stock])
        self.assertNoTrace(image_id, 'dcn0')
        self.assertNothingHeld(image_id)
        self.api.images.delete(image_id)
        self.assertNothingStaged()

    def test_a_copy_is_undone_where_all_must_succeed(self):
        image_id = self.uploaded(self.api, self.data, 'dcn0')
        self.copy(image_id, self.stock, AWAY, allow_failure=False)
        self.api.wait(image_id, 'dcn0', failed=[AWAY])
        self.assertNothingHeld(image_id)
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertNothingStaged()
        self.assertSame(self.data, self.api.download(image_id))

    def test_a_broken_image_goes_nowhere(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        good = self.converted(self.data, 'qcow2')
        self.api.stage(image_id, good[:len(good) // 2])
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=[self.stock, 'dcn0'])
        self.api.wait(image_id, status='queued', failed=[self.stock, 'dcn0'])
        self.assertNoTrace(image_id, 'dcn0')
        self.assertNothingHeld(image_id)
        self.api.images.delete(image_id)
        self.assertNothingStaged()
