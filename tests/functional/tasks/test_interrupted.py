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

"""Removals that are interrupted after the image has lost its name."""

import time

import rbd

from glance_dcn.ceph import images
from glance_dcn.runtime import native
from glance_dcn.store import deletion
from glance_dcn.store import location
from glance_dcn.tasks import queue as queues
from lab import process
from tests.functional import base as functional
from tests.functional.tasks import base

Action = queues.Action
# So many objects that it takes a while to remove them.
_SIZE = 8 << 30


class InterruptedRemovalTest(base.TasksTestCase):

    def interrupt(self):
        """Kill a process while librbd removes an image for it.

        :returns: the image's internal ID, and the address of the client
        """
        with self.edge.open_pool() as ioctx:
            images.create(ioctx, self.image, _SIZE, 22, None)
        image_id = self.identify()
        started = self.start(
            'with site.open_pool() as ioctx:',
            '    say(site.connection.address_of(ioctx))',
            '    images.remove(ioctx, image, "%s")' % image_id)
        address = started.stdout.readline().strip()
        process.wait_for('its name to go', lambda: self.identify() is None,
                         20, .005)
        started.kill()
        started.wait()
        with self.edge.open_pool() as ioctx:
            self.assertTrue(images.is_being_removed(ioctx, self.image,
                                                    image_id))
            self.assertFalse(images.is_being_removed(ioctx, 'another',
                                                     image_id))
            self.assertEqual(image_id, images.find_being_removed(
                ioctx, self.image))
        return image_id, address

    def assertNothingLeft(self, image_id):
        self.assertGone()
        with self.cluster('dcn0').pool() as ioctx:
            self.assertRaises(rbd.ImageNotFound, rbd.RBD().trash_get, ioctx,
                              image_id)
            self.assertEqual([], [
                each.key for each in ioctx.list_objects()
                if image_id in each.key])

    def test_task_that_knows_the_image(self):
        image_id, address = self.interrupt()
        self.create(dropped=[self.edge])
        # What has the name now is another image.
        other = self.write(data=b'y')
        for record in self.recorded():
            self.queue.store.remove(record)
        self.defer(Action.DELETE, self.edge, self.image,
                   image_id=image_id, addresses=(address,))
        self.settle()
        self.assertThere(other)
        self.assertWhole(b'y')
        with self.edge.open_pool() as ioctx:
            functional.delete_image(self.edge, ioctx, self.image, other,
                                    images.SNAPSHOT)
        self.assertNothingLeft(image_id)

    def test_task_that_knows_only_the_name(self):
        image_id, address = self.interrupt()
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image,
                   addresses=(address,))
        self.settle()
        self.assertNothingLeft(image_id)

    def test_deleted_once_more(self):
        image_id, address = self.interrupt()
        self.assertFalse(self.edge.connection.blocklist([address]))
        loc = location.StoreLocation(
            {'fsid': self.edge.connection.known_fsid, 'pool': 'images',
             'image': self.image, 'snapshot': images.SNAPSHOT}, None)
        part = deletion.Deletion(self.edge, loc)
        part.decide(True)
        part.run(native.Queue())
        self.assertIsNone(part.error)
        self.assertNothingLeft(image_id)

    def test_clock_of_the_first_deleter_is_ahead(self):
        image_id, address = self.interrupt()
        with self.cluster('dcn0').pool() as ioctx:
            key = len(image_id).to_bytes(4, 'little') + image_id.encode()
            _code, spec = ioctx.execute('rbd_trash', 'rbd', 'trash_get', key)
            ioctx.execute('rbd_trash', 'rbd', 'trash_remove', key)
            # Seconds, nanoseconds and the entry's state are at its end.
            until = int(time.time() + 3600).to_bytes(4, 'little')
            ioctx.execute('rbd_trash', 'rbd', 'trash_add',
                          key + spec[:-9] + until + spec[-5:])
        self.create(dropped=[self.edge])
        self.defer(Action.DELETE, self.edge, self.image,
                   image_id=image_id, addresses=(address,))
        self.settle()
        self.assertNothingLeft(image_id)

    def test_writer_gives_up_once_more(self):
        image_id, address = self.interrupt()
        self.assertFalse(self.edge.connection.blocklist([address]))
        with self.edge.open_pool() as ioctx:
            self.edge.discard(ioctx, self.image, image_id)
        self.assertNothingLeft(image_id)

    def test_move_to_the_trash_that_was_interrupted(self):
        self.write()
        self.create(dropped=[self.edge])
        image_id = self.identify()
        with self.cluster('dcn0').pool() as ioctx:
            rbd.RBD().trash_move(ioctx, self.image)
            # The last step of it, which is too short to be hit.
            ioctx.execute('rbd_directory', 'rbd', 'dir_add_image', b''.join(
                len(text).to_bytes(4, 'little') + text.encode()
                for text in (self.image, image_id)))
        self.assertEqual(image_id, self.identify())
        self.defer(Action.PURGE, self.edge, self.image,
                   image_id=image_id, snapshot=images.SNAPSHOT)
        self.settle()
        self.assertNothingLeft(image_id)

    def test_what_an_operator_has_moved_to_the_trash(self):
        self.write()
        self.create(dropped=[self.edge])
        image_id = self.identify()
        with self.cluster('dcn0').pool() as ioctx:
            rbd.RBD().trash_move(ioctx, self.image)
        self.defer(Action.DELETE, self.edge, self.image,
                   image_id=image_id)
        self.settle()
        with self.cluster('dcn0').pool() as ioctx:
            self.assertEqual(self.image, rbd.RBD().trash_get(
                ioctx, image_id)['name'])
            rbd.RBD().trash_restore(ioctx, image_id, self.image)
