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

"""Taking a name lock from a dead holder, as far as it needs no cluster."""

import contextlib
from unittest import mock

from oslotest import base
import rados
import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from tests.unit.ceph import test_omap

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
# Of the client that an answer of the cluster is about.
ADDRESS, DEAD = '10.1.2.3:0/77', 4711


class Cluster:
    """An object with one lock, which knows whom it blocklisted.

    It is the client, and the open pool.

    :ivar held: :class:`glance_dcn.ceph.omap.Holder`, or None
    :ivar events: what happened, in order
    """

    def __init__(self, held=None):
        self.held = held
        self.events = []
        self.refuses_breaking = self.refuses_blocklisting = False

    def lock_exclusive(self, name, lock, cookie, description, _lasts, _flags):
        if self.held is not None and self.held.locker != cookie.encode():
            raise rados.ObjectBusy('busy')
        self.held = omap.Holder(1, '10.0.0.1:0/1', description,
                                cookie.encode())

    def unlock(self, name, lock, cookie):
        if self.held is None or self.held.locker != cookie.encode():
            raise rados.ObjectNotFound('not held')
        self.held = None

    def blocklist_add(self, address, seconds):
        if self.refuses_blocklisting:
            raise rados.PermissionError('no caps')
        self.events.append(('blocklisted', address))

    def execute(self, name, cls, method, data):
        if method == 'get_info':
            return 0, test_omap.answer(holders=0) if self.held is None else (
                test_omap.answer(
                    self.held.locker, self.held.description.encode(),
                    None if self.held.address else test_omap.address(
                        family=1)))
        if self.refuses_breaking:
            raise rados.PermissionError('no caps')
        if self.held is not None and self.held.locker in data:
            self.events.append(('broken', self.held.address))
            self.held = None
        return 0, b''


class NameLockTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.cluster = Cluster()

    def hold(self):
        return name_lock.hold(self.cluster, self.cluster, IMAGE, expiry=0,
                              pause=0)

    def dead(self, address=ADDRESS):
        self.cluster.held = omap.Holder(DEAD, address, 'beat 7', b'dead')

    def assertNotLocked(self, *words):
        exc = self.assertRaises(name_lock.NotLocked, self.hold().__enter__)
        for word in (IMAGE, *words):
            self.assertIn(word, str(exc))

    def test_held_while_the_block_runs(self):
        with self.hold():
            self.assertIn('for ' + IMAGE, self.cluster.held.description)
        self.assertIsNone(self.cluster.held)
        with self.assertRaisesRegex(ZeroDivisionError, 'division'):
            with self.hold():
                raise ZeroDivisionError('division')
        self.assertIsNone(self.cluster.held)

    def test_dead_holder_is_blocklisted_before_its_lock_is_broken(self):
        self.dead()
        with self.hold():
            pass
        self.assertEqual([('blocklisted', ADDRESS), ('broken', ADDRESS)],
                         self.cluster.events)

    def test_dead_holder_that_cannot_be_blocklisted(self):
        self.dead()
        self.cluster.refuses_blocklisting = True
        self.assertNotLocked(ADDRESS, 'profile rbd')
        self.dead('')
        self.cluster.refuses_blocklisting = False
        self.assertNotLocked('no known address')
        self.assertEqual([], self.cluster.events)

    def test_lock_that_cannot_be_broken(self):
        self.dead()
        self.cluster.refuses_breaking = True
        self.assertNotLocked('no caps')

    def test_locked_without_an_answer(self):
        # It must not be held by a client that knows nothing of it.
        lock = self.cluster.lock_exclusive

        def lock_unanswered(*args):
            lock(*args)
            raise rados.TimedOut('no answer')
        self.cluster.lock_exclusive = lock_unanswered
        self.assertNotLocked('no answer')
        self.assertIsNone(self.cluster.held)

    def test_unlocked_without_an_answer(self):
        # Left locked, the next one to wait would blocklist this client.
        unlock, answers = self.cluster.unlock, []

        def unlock_unanswered(*args):
            if answers.pop():
                unlock(*args)
            raise rados.TimedOut('no answer')

        def unlock_twice(*args):
            if answers:
                unlock_unanswered(*args)
            unlock(*args)
        self.cluster.unlock = unlock_twice
        # Whether the cluster has done the first one.
        for done in (True, False):
            answers.append(done)
            with self.hold():
                pass
            self.assertIsNone(self.cluster.held)
            answers.append(done)
            with contextlib.suppress(ZeroDivisionError), self.hold():
                raise ZeroDivisionError()
            self.assertIsNone(self.cluster.held)
            self.assertEqual([], answers)

    def test_never_unlocked(self):
        def unlock(*args):
            raise rados.TimedOut('no answer')
        self.cluster.unlock = unlock
        exc = self.assertRaises(name_lock.NameLockError,
                                self.enter_and_leave)
        self.assertIn('no answer', str(exc))

    def enter_and_leave(self):
        with self.hold():
            pass

    def test_lost_in_the_block(self):
        with self.assertRaises(name_lock.NameLockError) as raised:
            with self.hold():
                self.dead()
        self.assertNotIsInstance(raised.exception, name_lock.NotLocked)

    def test_only_that_of_the_dead_is_broken(self):
        self.dead()
        name_lock.break_lock(self.cluster, self.cluster, IMAGE,
                             {DEAD + 1})
        self.assertEqual([], self.cluster.events)
        name_lock.break_lock(self.cluster, self.cluster, IMAGE, {DEAD})
        self.assertEqual([('blocklisted', ADDRESS), ('broken', ADDRESS)],
                         self.cluster.events)

    def test_of_the_dead_who_cannot_be_blocklisted_stays(self):
        self.dead()
        self.cluster.refuses_blocklisting = True
        exc = self.assertRaises(
            name_lock.NotLocked, name_lock.break_lock, self.cluster,
            self.cluster, IMAGE, {DEAD})
        self.assertIn('profile rbd', str(exc))
        self.assertEqual([], self.cluster.events)
        self.assertIsNotNone(self.cluster.held)


class LookUpTest(base.BaseTestCase):

    def test_damaged_id(self):
        ioctx = mock.Mock()
        for data, expected in ((b'\x04\0\0\0abcd', 'abcd'), (b'', ''),
                               (b'\x09\0\0\0ab', 'ab'),
                               (b'\x02\0\0\0\xff\xfe', '\ufffd\ufffd')):
            ioctx.read.return_value = data
            self.assertEqual(expected, images.read_image_id(ioctx, IMAGE))
        ioctx.read.side_effect = rados.ObjectNotFound('none')
        # It may be listed all the same: half created, or half removed.
        ioctx.execute.return_value = 4, b'\x04\0\0\0abcd'
        self.assertEqual('abcd', images.read_image_id(ioctx, IMAGE))
        ioctx.execute.side_effect = rados.ObjectNotFound('none')
        self.assertIsNone(images.read_image_id(ioctx, IMAGE))

    def test_what_has_an_empty_id_is_there(self):
        # librbd finds no header of it.
        ioctx = mock.Mock()
        ioctx.read.return_value = b'\0\0\0\0'
        with mock.patch('rbd.Image', side_effect=rbd.ImageNotFound('none')):
            self.assertEqual(images.ImageInfo(''),
                             images.inspect(ioctx, IMAGE))
