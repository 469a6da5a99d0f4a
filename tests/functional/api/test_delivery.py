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

"""Reading and deleting images through a real Glance API."""

import concurrent.futures

from glanceclient import exc as client_exc

from tests.functional.api import base
from tests import releases

MiB = base.MiB


class DownloadTest(base.ApiTestCase):
    """What comes out again."""

    def setUp(self):
        super().setUp()
        self.data = base.random_data(3 * MiB + 77)
        self.image_id = self.uploaded(self.central, self.data, 'central')

    def range_of(self, api, spec):
        return api.request('GET', '/v2/images/%s/file' % self.image_id,
                           headers={'Range': 'bytes=' + spec})

    def test_at_an_edge_what_only_central_has(self):
        for api in (self.central, self.dcn0, self.dcn1):
            answer = api.request('GET', '/v2/images/%s/file' % self.image_id)
            self.assertEqual(
                (200, str(len(self.data)), base.digest(self.data, 'md5')),
                (answer.status_code, answer.headers['Content-Length'],
                 answer.headers['Content-MD5']))
            self.assertSame(self.data, answer.content)

    def test_checksums_hold_for_the_stock_client(self):
        chunks = self.dcn1.images.data(self.image_id)
        self.assertSame(self.data, b''.join(chunks))

    def test_a_part(self):
        size = len(self.data)
        for spec, first, last in (
                ('0-0', 0, 0), ('0-511', 0, 511),
                ('1000000-2000000', 1000000, 2000000),
                ('%d-' % (size - 100), size - 100, size - 1),
                ('-77', size - 77, size - 1),
                ('5-%d' % (size + 1000), 5, size - 1)):
            answer = self.range_of(self.dcn1, spec)
            self.assertEqual(
                (206, 'bytes %d-%d/%d' % (first, last, size)),
                (answer.status_code, answer.headers['Content-Range']), spec)
            self.assertSame(self.data[first:last + 1], answer.content)

    def test_a_part_that_is_not_there(self):
        answer = self.range_of(self.dcn1, '%d-' % len(self.data))
        self.assertEqual(416, answer.status_code)

    @releases.since(33)
    def test_from_each_store(self):
        self.central.images.image_import(self.image_id, 'copy-image',
                                         stores=['dcn0', 'dcn1'])
        self.central.wait(self.image_id, *base.SITES)
        # What each store has is told apart by a mark.
        for site in base.SITES:
            mark = site.encode()
            self.mark(site, mark)
            self.assertSame(mark + self.data[len(mark):],
                            self.central.download(self.image_id, prefer=site))

    def mark(self, site, mark):
        """Write into an image behind Glance's back."""
        with self.rbd_image(site, self.image_id) as image:
            image.unprotect_snap('snap')
            image.remove_snap('snap')
            image.write(mark, 0)
            image.create_snap('snap')
            image.protect_snap('snap')

    def test_many_at_once(self):
        workers = self.lab.glance('central').service.worker_pids()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for data in pool.map(
                    lambda _number: self.central.download(self.image_id),
                    range(30)):
                self.assertSame(self.data, data)
        # None of them died of it and was replaced.
        self.assertEqual(workers,
                         self.lab.glance('central').service.worker_pids())

    def test_gone_behind_the_back_of_glance(self):
        base.purge(self.cluster('central'), self.image_id)
        answer = self.central.request(
            'GET', '/v2/images/%s/file' % self.image_id)
        # Glance says "no content" for data that a store does not find.
        self.assertEqual((204, b''), (answer.status_code, answer.content))


class DeleteTest(base.ApiTestCase):
    """Deleted from one store, or from all; in use, or not."""

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def delete(self, image_id):
        return self.central.request('DELETE', '/v2/images/%s' % image_id)

    def assertDeleted(self, image_id):
        answer = self.central.request('GET', '/v2/images/%s' % image_id)
        self.assertEqual(404, answer.status_code)

    def test_from_one_store_only(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        self.central.images.delete_from_store('central', image_id)
        image = self.central.wait(image_id, 'dcn0')
        self.assertLocated(image, 'dcn0')
        self.assertNoTrace(image_id, 'central')
        self.assertStored(image_id, self.data, 'dcn0')
        self.assertSame(self.data, self.central.download(image_id))

    def test_from_all_of_its_stores_one_by_one_at_once(self):
        for _ in range(3):
            image_id = self.uploaded(self.central, self.data, 'central',
                                     'dcn0')
            paths = ['/v2/stores/%s/%s' % (store, image_id)
                     for store in ('central', 'dcn0')]
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                statuses = sorted(pool.map(
                    lambda path: self.central.request('DELETE', path
                                                      ).status_code, paths))
            # 403: the other had gone before this request began.
            self.assertIn(statuses, ([204, 409], [204, 403]))
            [store] = self.central.images.get(image_id).stores.split(',')
            self.assertStored(image_id, self.data, store)
            self.assertSame(self.data, self.central.download(image_id))

    def test_from_all_of_three_stores_one_by_one_at_once(self):
        for _ in range(3):
            image_id = self.uploaded(self.central, self.data, *base.SITES)
            paths = ['/v2/stores/%s/%s' % (store, image_id)
                     for store in base.SITES]
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                statuses = set(pool.map(
                    lambda path: self.central.request('DELETE', path
                                                      ).status_code,
                    paths + paths))
            self.assertIn(204, statuses)
            self.assertLessEqual(statuses, {204, 403, 404, 409})
            stores = self.central.images.get(image_id).stores.split(',')
            self.assertStored(image_id, self.data, *stores)
            self.assertNoTrace(image_id, *set(base.SITES) - set(stores))

    def test_not_if_the_other_store_has_no_data(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        base.purge(self.cluster('dcn0'), image_id)
        answer = self.central.request(
            'DELETE', '/v2/stores/central/%s' % image_id)
        self.assertEqual(409, answer.status_code)
        self.assertIn('no other store is seen to have it: store dcn0',
                      answer.text)
        self.assertSame(self.data, self.central.download(image_id))
        # The other one is.
        self.central.images.delete_from_store('dcn0', image_id)
        self.assertLocated(self.central.images.get(image_id), 'central')

    def test_not_from_the_last_store(self):
        image_id = self.uploaded(self.central, self.data, 'dcn0')
        self.assertRaises(client_exc.HTTPForbidden,
                          self.central.images.delete_from_store, 'dcn0',
                          image_id)
        self.assertLocated(self.central.images.get(image_id), 'dcn0')
        self.assertStored(image_id, self.data, 'dcn0')

    def test_not_from_a_store_it_is_not_in(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        self.assertRaises(client_exc.HTTPNotFound,
                          self.central.images.delete_from_store, 'dcn1',
                          image_id)
        self.assertStored(image_id, self.data, 'central', 'dcn0')

    def test_everywhere(self):
        image_id = self.uploaded(self.central, self.data, *base.SITES)
        self.assertEqual(204, self.delete(image_id).status_code)
        self.assertDeleted(image_id)
        self.assertNoTrace(image_id, *base.SITES)

    def test_protected(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        self.central.images.update(image_id, protected=True)
        try:
            self.assertEqual(403, self.delete(image_id).status_code)
            self.assertStored(image_id, self.data, 'central')
        finally:
            self.central.images.update(image_id, protected=False)

    def test_gone_behind_the_back_of_glance(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn1')
        base.purge(self.cluster('central'), image_id)
        self.assertEqual(204, self.delete(image_id).status_code)
        self.assertDeleted(image_id)
        self.assertNoTrace(image_id, 'dcn1')

    def test_in_use_by_a_clone_of_format_1(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        remove = self.clone('central', image_id, clone_format=1)
        answer = self.delete(image_id)
        self.assertEqual(409, answer.status_code, answer.text)
        self.assertEqual('active',
                         self.central.images.get(image_id)['status'])
        self.assertSame(self.data, self.central.download(image_id))
        self.assertStored(image_id, self.data, 'central')
        remove()
        self.assertEqual(204, self.delete(image_id).status_code)
        self.assertDeleted(image_id)
        self.assertNoTrace(image_id, 'central')

    def test_one_store_in_use_by_a_clone_of_format_1(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        self.clone('dcn0', image_id, clone_format=1)
        answer = self.central.request(
            'DELETE', '/v2/stores/dcn0/%s' % image_id)
        self.assertEqual(409, answer.status_code, answer.text)
        self.assertLocated(self.central.images.get(image_id),
                           'central', 'dcn0')
        self.assertStored(image_id, self.data, 'central', 'dcn0')

    def test_in_use_by_a_clone_of_format_2(self):
        image_id = self.uploaded(self.central, self.data, 'central', 'dcn0')
        self.clone('dcn0', image_id, clone_format=2)
        self.assertEqual(204, self.delete(image_id).status_code)
        self.assertDeleted(image_id)
        self.assertNoTrace(image_id, 'central')
        cluster = self.cluster('dcn0')
        self.assertNotIn(image_id, cluster.images())
        self.assertIn(image_id, cluster.trash())
        # The clone lives on.
        with self.rbd_image('dcn0', '%s_disk' % image_id, pool='vms',
                            read_only=True) as disk:
            self.assertSame(self.data, disk.read(0, disk.size()))

    def test_with_a_snapshot_of_somebody_else(self):
        image_id = self.uploaded(self.central, self.data, 'central')
        with self.rbd_image('central', image_id) as image:
            image.create_snap('theirs')
        self.assertEqual(204, self.delete(image_id).status_code)
        self.assertDeleted(image_id)
        self.assertIn(image_id, self.cluster('central').trash())
