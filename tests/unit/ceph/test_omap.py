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

"""Decoding who holds a lock; what it is in RADOS is tested functionally."""

import struct

import hypothesis
from hypothesis import strategies as st
from oslotest import base
import rados

from glance_dcn.ceph import omap

_ADDRESS = '10.1.2.3:0/77'
# A machine may be slow.
_patiently = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])


def text(data):
    return struct.pack('<I', len(data)) + data


def headed(fields):
    return struct.pack('<BBI', 1, 1, len(fields)) + fields


def address(host=b'\x0a\x01\x02\x03', family=2, legacy=False):
    """Return an entity_addr_t as OSDs send it."""
    socket_address = struct.pack('<H', family) + b'\0\0' + host.ljust(
        12 if family == 2 else 24, b'\0')
    if legacy:
        return struct.pack('<II', 0, 77) + socket_address.ljust(128, b'\0')
    return b'\1' + headed(struct.pack(
        '<III', 2, 77, len(socket_address)) + socket_address)


def answer(cookie=b'cookie', description=b'beat 1', where=None, holders=1):
    """Return a cls_lock_get_info_reply."""
    one = headed(b'\x08' + struct.pack('<q', 4711) + text(cookie)) + headed(
        bytes(8) + (where or address()) + text(description))
    return headed(struct.pack('<I', holders) + one * holders
                  + b'\1' + text(b'tag'))


class Ioctx:

    def __init__(self, reply):
        self.reply = reply

    def execute(self, name, cls, method, data):
        if isinstance(self.reply, Exception):
            raise self.reply
        return 0, self.reply


def holder(reply):
    return omap.holder(Ioctx(reply), 'object', 'lock')


class HolderTest(base.BaseTestCase):

    def test_decoded(self):
        found = holder(answer())
        self.assertEqual((4711, _ADDRESS, 'beat 1'), (
            found.instance, found.address, found.description))
        self.assertEqual(_ADDRESS,
                         holder(answer(where=address(legacy=True))).address)
        six = address(b'\0\0\0\0' + b'\xfd' + bytes(14) + b'\1', 10)
        # The flow label comes before an address of IPv6.
        self.assertEqual('[fd00::1]:0/77', holder(answer(where=six)).address)
        self.assertEqual('', holder(answer(
            where=address(family=1))).address)

    def test_nobody(self):
        self.assertIsNone(holder(answer(holders=0)))
        self.assertIsNone(holder(rados.ObjectNotFound('none')))

    def test_cluster_that_refuses(self):
        self.assertRaises(rados.PermissionError, holder,
                          rados.PermissionError('no'))

    @_patiently
    @hypothesis.given(st.binary(max_size=300))
    def test_any_bytes(self, reply):
        self.decode(reply)

    @_patiently
    @hypothesis.given(st.data())
    def test_any_change(self, data):
        reply = bytearray(answer(
            data.draw(st.binary(max_size=20)),
            data.draw(st.binary(max_size=20)),
            address(legacy=data.draw(st.booleans()))))
        for _change in range(data.draw(st.integers(1, 4))):
            reply[data.draw(st.integers(0, len(reply) - 1))] = data.draw(
                st.integers(0, 255))
        self.decode(bytes(reply))

    def test_cut_off_anywhere(self):
        whole = answer()
        # What ends with the tag is whole for us.
        end = len(whole) - len(b'\1' + text(b'tag'))
        self.assertEqual('beat 1', holder(whole[:end]).description)
        for length in range(end):
            exc = self.assertRaises(omap.Undecodable, holder, whole[:length])
            self.assertIn('lock of object object', str(exc))

    def decode(self, reply):
        """Decode an answer: it is understood, or refused by one error."""
        try:
            found = holder(reply)
        except omap.Undecodable as exc:
            # For all that handle a cluster's refusal.
            self.assertIsInstance(exc, omap.Error)
            return
        if found is not None:
            self.assertIsInstance(found.instance, int)
            self.assertIsInstance(found.address, str)
            self.assertIsInstance(found.description, str)
            found.description.encode()
