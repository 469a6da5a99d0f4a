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

"""Small records in RADOS objects, and locks on objects that expire.

A record is a key of an object's omap with text as its value, so that many
clients can add, change and take away records of one object side by side.
Plain RADOS objects in the pool of the images need no rights beyond those
that images need.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import errno
import os
import socket
import struct

import rados

from glance_dcn.ceph import errors
from glance_dcn.runtime import native
from glance_dcn.runtime import process

#: What every function of this module raises when the cluster refuses.
Error = rados.Error

#: Seconds to wait for an answer where nothing else is said.
TIMEOUT = 10
# Records asked for in one round trip.
_PAGE = 512
#: librados.h: LIBRADOS_LOCK_FLAG_MAY_RENEW.
MAY_RENEW = 1
#: One that is not held is not taken: LIBRADOS_LOCK_FLAG_MUST_RENEW.
MUST_RENEW = 2
# librados.h: LIBRADOS_CMPXATTR_OP_EQ, LIBRADOS_CREATE_IDEMPOTENT.
_EQUAL = 1
_IDEMPOTENT = 0


class _InFlight(set['rados.Completion']):
    """Completions that were not called yet.

    python3-rados keeps them with their Ioctx alone; should that be closed and
    forgotten first, librados would call what is not there any more.
    """


def put(ioctx: rados.Ioctx, name: str, records: Mapping[str, str],
        timeout: float = TIMEOUT) -> None:
    """Write records, over those of the same keys.

    :param name: name of the object; it is made if need be
    :param timeout: seconds to wait for the cluster
    :raises Error: if they could not be written, or may not have been
    """
    with rados.WriteOpCtx() as op:
        ioctx.set_omap(op, tuple(records),
                       tuple(text.encode() for text in records.values()))
        _operate(ioctx, op, name, timeout, 'writing to %s' % name)


def put_later(ioctx: rados.Ioctx, name: str,
              records: Mapping[str, str]) -> None:
    """Write records without waiting; a failure is not told."""
    with rados.WriteOpCtx() as op:
        ioctx.set_omap(op, tuple(records),
                       tuple(text.encode() for text in records.values()))
        ioctx.operate_aio_write_op(op, name)


def swap(ioctx: rados.Ioctx, name: str, key: str, before: str | None,
         after: str, others: Mapping[str, str] | None = None) -> bool:
    """Write a record, if it is still what it was.

    :param before: its text until now; None: there is none
    :param others: further records that are written then, over earlier ones
    :returns: whether it was written
    :raises Error: if the cluster refuses
    """
    if before is None:
        # Nothing of an object that is not there can be compared.
        with rados.WriteOpCtx() as op:
            op.new(_IDEMPOTENT)
            ioctx.operate_write_op(op, name)
    with rados.WriteOpCtx() as op:
        # What is not there is as good as empty.
        op.omap_cmp(key, before or '', _EQUAL)
        texts = {key: after, **(others or {})}
        ioctx.set_omap(op, tuple(texts),
                       tuple(text.encode() for text in texts.values()))
        return _if_matching(ioctx, op, name)


def remove(ioctx: rados.Ioctx, name: str, key: str,
           text: str | None = None) -> bool:
    """Remove a record.

    :param text: remove it only if this is its value
    :returns: whether it was removed
    :raises Error: if the cluster refuses
    """
    with rados.WriteOpCtx() as op:
        if text is not None:
            op.omap_cmp(key, text, _EQUAL)
        ioctx.remove_omap_keys(op, (key,))
        return _if_matching(ioctx, op, name)


def remove_later(ioctx: rados.Ioctx, name: str, key: str,
                 failed: Callable[[], object], text: str | None = None
                 ) -> None:
    """Remove a record without waiting.

    :param text: remove it only if this is its value
    :param failed: called if it could not be removed, in a thread of
        librados: it must not wait
    """
    def answered(code: int) -> None:
        if code < 0:
            failed()
    with rados.WriteOpCtx() as op:
        if text is not None:
            op.omap_cmp(key, text, _EQUAL)
        ioctx.remove_omap_keys(op, (key,))
        _start(ioctx, op, name, answered)


def get(ioctx: rados.Ioctx, name: str, key: str) -> str | None:
    """Return the text of a record, or None.

    :raises Error: if the cluster refuses
    """
    with rados.ReadOpCtx() as op:
        found, _code = ioctx.get_omap_vals_by_keys(op, (key,))
        try:
            ioctx.operate_read_op(op, name)
        except rados.ObjectNotFound:
            return None
        return {key: (value or b'').decode(errors='replace')
                for key, value in found}.get(key)


def walk(ioctx: rados.Ioctx, name: str,
         prefix: str = '') -> Iterator[tuple[str, str]]:
    """Give (key, text) of each record in the order of the keys.

    Those that come or go meanwhile may be among them or not.

    :param prefix: what the keys begin with
    :raises Error: if the cluster refuses
    """
    last = ''
    while True:
        with rados.ReadOpCtx() as op:
            found, _code = ioctx.get_omap_vals(op, last, prefix, _PAGE)
            try:
                ioctx.operate_read_op(op, name)
            except rados.ObjectNotFound:
                return
            # An empty value comes as None.
            page = [(key, (value or b'').decode(errors='replace'))
                    for key, value in found]
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1][0]


def lock(ioctx: rados.Ioctx, name: str, lock_name: str, holder: str,
         seconds: float) -> bool:
    """Take a lock on an object, or hold it for longer.

    It comes to its end by the clock of the cluster, whatever becomes of its
    holder.

    :param name: name of the object; it is made if need be
    :param holder: text that tells this holder from all others
    :param seconds: for how long from now
    :returns: whether it is held now
    :raises Error: if the cluster refuses
    """
    try:
        # The holder is the cookie; the client, which is another after each
        # connecting, counts too.
        ioctx.lock_exclusive(name, lock_name, holder, '', int(seconds),
                             MAY_RENEW)
    except (rados.ObjectBusy, rados.ObjectExists):
        return False
    return True


def unlock(ioctx: rados.Ioctx, name: str, lock_name: str,
           holder: str) -> None:
    """Give a lock back; one that is not held any more is no error."""
    with contextlib.suppress(rados.ObjectNotFound):
        ioctx.unlock(name, lock_name, holder)


class Undecodable(rados.Error):
    """An answer of the cluster is in a form that this module does not know."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The holder of an exclusive lock.

    :ivar address: of the client, as the blocklist takes it; '' if it cannot
        be told
    :ivar description: what the holder has written into the lock
    :ivar locker: entity and cookie as cls_lock encodes them
    """

    instance: int
    address: str
    description: str
    locker: bytes


def holder(ioctx: rados.Ioctx, name: str,
           lock_name: str) -> Holder | None:
    """Return the holder of an exclusive lock, or None.

    :raises Undecodable: if the answer is not understood
    :raises Error: if the cluster refuses
    """
    try:
        _code, reply = ioctx.execute(name, 'lock', 'get_info',
                                     _encoded(encode_text(lock_name)))
    except rados.ObjectNotFound:
        return None
    try:
        return _decode_holder(reply)
    except (struct.error, IndexError) as exc:
        raise Undecodable('the holder of lock %s of object %s cannot be told: '
                          'the answer of the cluster is not in a form that is '
                          'known (%s)' % (lock_name, name, exc),
                          errno=errno.EPROTO) from exc


def _decode_holder(reply: bytes) -> Holder | None:
    """Decode the answer of cls_lock about an exclusive lock.

    :raises struct.error, IndexError: if it ends too early
    """
    # cls_lock_get_info_reply of src/cls/lock/cls_lock_ops.h: a header, the
    # number of holders, and of each a locker_id_t (a header, type and number
    # of the entity, the cookie) and a locker_info_t (a header, the expiration
    # of 8 bytes, an entity_addr_t, the description). A header is version,
    # compat, and the length of what follows.
    if not struct.unpack_from('<I', reply, 6)[0]:
        return None
    entity = 6 + 4 + 6
    length = struct.unpack_from('<I', reply, entity + 9)[0]
    info = entity + 9 + 4 + length
    address, end = _address(reply, info + 6 + 8)
    length = struct.unpack_from('<I', reply, end)[0]
    description, = struct.unpack_from('%ds' % length, reply, end + 4)
    return Holder(
        struct.unpack_from('<q', reply, entity + 1)[0], address,
        description.decode(errors='replace'), reply[entity:info])


def _address(data: bytes, at: int) -> tuple[str, int]:
    """Decode an entity_addr_t; return it as text, and where it ends.

    See src/msg/msg_types.h: with a first byte of 1 a header follows, then
    type, nonce, and a socket address with its length; with 0 the address is
    in the form of before Ceph 10, which OSDs send to clients without msgr2.
    """
    if data[at] == 1:
        end = at + 7 + struct.unpack_from('<I', data, at + 3)[0]
        _kind, nonce, length = struct.unpack_from('<III', data, at + 7)
        socket_address = data[at + 19:at + 19 + length]
    else:
        end = at + 4 + 4 + 128
        nonce = struct.unpack_from('<I', data, at + 4)[0]
        socket_address = data[at + 8:end]
    return _format_address(socket_address, nonce), end


def _format_address(data: bytes, nonce: int) -> str:
    if len(data) < 8:
        return ''
    family = struct.unpack_from('<H', data)[0]
    port = struct.unpack_from('>H', data, 2)[0]
    if family == socket.AF_INET:
        host = socket.inet_ntop(socket.AF_INET, data[4:8])
    elif family == socket.AF_INET6 and len(data) >= 24:
        host = '[%s]' % socket.inet_ntop(socket.AF_INET6, data[8:24])
    else:
        return ''
    return '%s:%d/%d' % (host, port, nonce)


def break_lock(ioctx: rados.Ioctx, name: str, lock_name: str,
               held: Holder) -> None:
    """Take a lock away from its holder; one that is not held is no error.

    :raises Error: if the cluster refuses
    """
    with contextlib.suppress(rados.ObjectNotFound):
        # cls_lock_break_op: the name, then the entity and the cookie.
        ioctx.execute(name, 'lock', 'break_lock',
                      _encoded(encode_text(lock_name) + held.locker))


def encode_text(text: str) -> bytes:
    """Return a string as Ceph encodes it: its length comes first."""
    data = text.encode()
    return struct.pack('<I', len(data)) + data


def _encoded(fields: bytes) -> bytes:
    return struct.pack('<BBI', 1, 1, len(fields)) + fields


def remove_object(ioctx: rados.Ioctx, name: str) -> None:
    """Remove an object; one that is gone is no error."""
    with contextlib.suppress(rados.ObjectNotFound):
        ioctx.remove_object(name)


def exists(ioctx: rados.Ioctx, name: str, timeout: float) -> bool:
    """Return whether an object is there, also when the cluster hangs.

    :param timeout: seconds to wait
    :raises Error: if there is no answer
    """
    with rados.WriteOpCtx() as op:
        # It writes nothing. Of an operation that could, librados keeps the
        # pool open until it is answered; it would look for the answer of
        # aio_stat() in a pool that was closed after the timeout, and abort.
        op.omap_cmp('glance_dcn', '', _EQUAL)
        try:
            _operate(ioctx, op, name, timeout, 'looking for %s' % name)
        except rados.ObjectNotFound:
            return False
        except rados.Error as exc:
            if not _is_mismatch(exc):
                raise
    return True


def may_write(ioctx: rados.Ioctx, name: str,
              timeout: float = TIMEOUT) -> bool:
    """Return whether the user may write an object, without writing it.

    :param name: of an object that is not there
    :param timeout: seconds to wait
    :raises Error: if there is no answer
    """
    with rados.WriteOpCtx() as op:
        # Rights are checked before anything else of an operation; this one
        # fails then, as there is nothing to be compared.
        op.omap_cmp('glance_dcn', 'glance_dcn', _EQUAL)
        ioctx.remove_omap_keys(op, ('glance_dcn',))
        try:
            _operate(ioctx, op, name, timeout,
                     'asking whether %s may be written' % name)
        except rados.Error as exc:
            if errors.is_denied(exc):
                return False
            if not _is_mismatch(exc):
                raise
    return True


def _start(ioctx: rados.Ioctx, op: rados.WriteOp, name: str,
           answered: Callable[[int], object]) -> None:
    """Start an operation, and keep its completion until it is over.

    :param answered: called with the return value, in a thread of librados
    """
    in_flight = process.get(_InFlight)
    lock = native.lock()
    over: list[bool] = []

    def complete(completion: rados.Completion, *unused: object) -> None:
        try:
            answered(completion.get_return_value())
        finally:
            with lock:
                over.append(True)
                in_flight.discard(completion)

    completion = ioctx.operate_aio_write_op(op, name, complete)
    with lock:
        if not over:
            in_flight.add(completion)


def _operate(ioctx: rados.Ioctx, op: rados.WriteOp, name: str,
             timeout: float, what: str) -> None:
    """Carry an operation out, and raise what its return value stands for."""
    answers: native.Queue[int] = native.Queue()
    _start(ioctx, op, name, answers.put)
    try:
        code = native.get(answers, timeout)
    except native.Empty:
        raise rados.TimedOut('%s: no answer within %s s' % (what, timeout),
                             errno=errno.ETIMEDOUT)
    if code == -errno.ENOENT:
        raise rados.ObjectNotFound(what, errno=errno.ENOENT)
    if code < 0:
        raise rados.OSError('%s: %s' % (what, os.strerror(-code)),
                            errno=-code)


def _if_matching(ioctx: rados.Ioctx, op: rados.WriteOp, name: str) -> bool:
    """Carry an operation out; return whether what it compares was equal."""
    try:
        ioctx.operate_write_op(op, name)
    except rados.Error as exc:
        if _is_mismatch(exc):
            return False
        raise
    return True


def _is_mismatch(exc: rados.Error) -> bool:
    """Return whether a comparison of the operation has failed.

    The cluster answers ECANCELED, or -(MAX_ERRNO + index), and ENOENT if
    there is no such object.
    """
    code = errors.code(exc)
    return code in (errno.ENOENT, errno.ECANCELED) or code >= 4095
