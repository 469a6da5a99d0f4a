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

"""Any worker takes the call, wherever the image is staged."""

from concurrent import futures
import itertools
import os

from tests.functional.api import base
from tests.functional.staging import workers

_TIMES = 50
# At a time: each waits for Glance's threads most of the time.
_LANES = 4
SIZE = 192 << 10


class Proxying:
    """Three workers; each image meets them in another order."""

    STOCK = ()
    TIMES = _TIMES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.workers = workers.Workers(stock=cls.STOCK)
        cls.workers.setUp()
        cls.addClassCleanup(cls.workers.cleanUp)

    def setUp(self):
        super().setUp()
        self.use_workers(self.workers)

    def each(self, work):
        """Do something many times, with another order of workers each."""
        orders = itertools.islice(
            itertools.cycle(itertools.permutations(range(3))), self.TIMES)
        with futures.ThreadPoolExecutor(_LANES) as pool:
            return sum(pool.map(lambda order: work(*order), orders))

    def stage(self, number):
        """Make an image, staged at a worker; return its ID and data."""
        data = os.urandom(SIZE)
        image_id = self.new_image(self.workers.public)
        self.workers.apis[number].stage(image_id, data)
        return image_id, data

    def delete(self, number, image_id):
        answer = self.workers.apis[number].request(
            'DELETE', '/v2/images/%s' % image_id)
        self.assertEqual(204, answer.status_code, answer.text)

    def import_and_delete(self, first, second, third):
        image_id, data = self.stage(first)
        self.workers.apis[second].images.image_import(
            image_id, 'glance-direct', stores=[self.workers.site])
        image = self.workers.public.wait(image_id, self.workers.site)
        self.assertDescribes(image, data)
        self.assertSame(data, self.workers.apis[third].download(image_id))
        self.delete(third, image_id)
        self.assertNoTrace(image_id, 'central')
        return 1

    def delete_staged(self, first, second, third):
        image_id, _data = self.stage(first)
        # Stock leaves it to the worker that staged it.
        self.delete(third, image_id)
        for number in range(3):
            self.assertNotIn(image_id, self.workers.staged(number))
        return 1

    def assertNothingIsLeft(self):
        for number in range(3):
            self.assertEqual([], self.workers.staged(number))

    def test_import_and_delete(self):
        self.assertEqual(self.TIMES, self.each(self.import_and_delete))
        self.assertNothingIsLeft()

    def test_delete_staged(self):
        self.assertEqual(self.TIMES, self.each(self.delete_staged))
        self.assertNothingIsLeft()


class TestProxying(Proxying, workers.WorkersTestCase):

    def test_through_the_load_balancer(self):
        api = self.workers.public
        data = base.random_data()
        image_id = self.uploaded(api, data, self.workers.site)
        self.assertSame(data, api.download(image_id))
        # It goes round the workers.
        for _ in range(6):
            self.assertEqual(200, api.request('GET', '/v2/images').status_code)
        for number in range(3):
            # uWSGI has a log of its own, eventlet that of Glance.
            self.assertIn('GET /v2/images ', self.workers.workers[
                number].service.daemon.tail(20000) + self.workers.log(number))


class TestProxyingWithStock(Proxying, workers.WorkersTestCase):
    """One of the workers has stock's store, and no plugin of ours."""

    STOCK = (2,)
    TIMES = 18
