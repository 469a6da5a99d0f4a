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

"""Workers that are gone for good, and one that was only thought to be."""

import os
import signal
import time

from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.staging import workers

MiB = base.MiB
TIMEOUT = 10
# From the death of a worker until its image can be used, at most: it has to be
# silent, a peer looks every few seconds, and half a minute may pass until the
# cluster has forgotten it.
PATIENCE = TIMEOUT + 30


class GoneTest(workers.WorkersTestCase):
    """Workers whose stores take a second for each MiB."""

    program = glance.Glance

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.workers = workers.Workers(
            2, overrides={'glance_dcn': {'dcn_worker_timeout': TIMEOUT}},
            options={'dcn_bandwidth_limit': 1}, program=cls.program)
        cls.workers.setUp()
        cls.addClassCleanup(cls.workers.cleanUp)

    def setUp(self):
        super().setUp()
        self.use_workers(self.workers)
        self.gone, self.peer = self.workers.apis
        self.site = self.workers.site
        # It comes back, with its disk, and lets go.
        if self.hidden.exists():
            self.hidden.rename(self.staging)
        self.workers.start(self.workers.workers[0])
        process.wait_for('both workers', lambda: all(
            self.is_well(number) for number in range(2)), 30)
        # They have heard of each other.
        time.sleep(TIMEOUT / 2)

    @property
    def staging(self):
        """Staging folder of the worker that will be gone."""
        return self.workers.workers[0].staging

    @property
    def hidden(self):
        return self.staging.with_name('hidden')

    def is_well(self, number):
        entry = self.workers.entry(number)
        return entry and entry['state'] == 'up' and not entry['tasks']

    def begin_import(self, size=20 * MiB):
        """Begin an import at the worker that will be gone."""
        self.data = os.urandom(size)
        image_id = self.new_image(self.peer)
        self.gone.stage(image_id, self.data)
        # Glance takes it for its own worker's whoever is asked.
        self.peer.images.image_import(image_id, 'glance-direct',
                                      stores=[self.site])
        self.wait_until_written('central', image_id)
        return image_id

    def wait_until_written(self, site, image_id):
        process.wait_for('RBD image', lambda: image_id in self.cluster(
            site).images(), 20)
        time.sleep(1)

    def wait_for_status(self, image_id, status):
        """Wait until the image can be used again."""
        def usable():
            image = self.peer.images.get(image_id)
            return (image['status'] == status
                    and not image.get('os_glance_import_task') and image)
        return process.wait_for('image to be %s' % status, usable, PATIENCE)

    def hide_staging(self):
        """Let the staging folder be none that the peer can read."""
        self.staging.rename(self.hidden)

    def assertTask(self, image_id, status, api=None):
        [task] = (api or self.peer).tasks(image_id).values()
        self.assertEqual(status, task['status'], task)

    def assertWell(self, image_id, data, *sites):
        """Everything is as if nothing had been."""
        image = self.peer.images.get(image_id)
        self.assertDescribes(image, data)
        self.assertSame(data, self.peer.download(image_id))
        self.assertStored(image_id, data, *sites)
        self.assertNotIn(image_id, self.workers.staged(1))

    def test_during_an_import_with_its_disk(self):
        image_id = self.begin_import()
        self.workers.kill(0)
        self.hide_staging()
        self.wait_for_status(image_id, 'queued')
        self.assertTask(image_id, 'failure')
        self.assertEqual('taken over', self.workers.entry(0)['state'])
        # It can be repeated, with another upload.
        data = base.random_data()
        self.peer.stage(image_id, data)
        self.peer.images.image_import(image_id, 'glance-direct',
                                      stores=[self.site])
        self.peer.wait(image_id, self.site)
        self.assertWell(image_id, data, 'central')

    def test_during_an_import_its_disk_stays(self):
        image_id = self.begin_import(8 * MiB)
        self.workers.kill(0)
        self.wait_for_status(image_id, 'uploading')
        self.assertEqual([image_id], self.workers.staged(1))
        # It can be repeated, without another upload.
        self.peer.images.image_import(image_id, 'glance-direct',
                                      stores=[self.site])
        self.peer.wait(image_id, self.site)
        self.assertWell(image_id, self.data, 'central')

    def test_during_a_copy(self):
        self.data = base.random_data(6 * MiB)
        image_id = self.uploaded(self.peer, self.data, self.site)
        self.gone.images.image_import(image_id, 'copy-image',
                                      stores=['dcn0'])
        self.wait_until_written('dcn0', image_id)
        self.workers.kill(0)
        self.wait_for_status(image_id, 'active')
        self.assertEqual('dcn0', self.peer.images.get(image_id)[
            'os_glance_failed_import'])
        self.peer.images.image_import(image_id, 'copy-image', stores=['dcn0'])
        self.peer.wait(image_id, self.site, 'dcn0')
        self.assertWell(image_id, self.data, 'central', 'dcn0')

    def test_comes_back(self):
        image_id = self.begin_import()
        pids = self.workers.processes(0)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            self.addCleanup(self.go_on, pid)
        # On another host, the peer would not see that it is only stopped.
        self.hide_staging()
        self.wait_for_status(image_id, 'queued')
        data = base.random_data()
        self.peer.stage(image_id, data)
        self.peer.images.image_import(image_id, 'glance-direct',
                                      stores=[self.site])
        self.peer.wait(image_id, self.site)
        self.hidden.rename(self.staging)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        process.wait_for(
            'the worker to find out', lambda: 'has taken its locks off images'
            in self.workers.log(0), 60)
        process.wait_for('the worker to let go',
                         lambda: not self.workers.entry(0)['tasks'], 60)
        # Whatever it was about to do: the image is the other's.
        time.sleep(5)
        image = self.peer.images.get(image_id)
        self.assertEqual('active', image['status'])
        self.assertDescribes(image, data)
        self.assertSame(data, self.peer.download(image_id))
        self.assertStored(image_id, data, 'central')

    def go_on(self, pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
