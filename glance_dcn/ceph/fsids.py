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

"""Which cluster each site has: kept in the pool of one of them.

An object's omap, with a key for each store and the fsid and the time as JSON.
Users of the pool need no other rights than for images.
"""

import errno
import json
import logging
import time

import rados

LOG = logging.getLogger(__name__)

#: What every function of this module raises when the cluster refuses.
Error = rados.Error
#: Name of the RADOS object.
OBJECT = 'glance_dcn.fsids'

# Entries asked for in one round trip.
_PAGE = 500
# librados.h: LIBRADOS_CMPXATTR_OP_EQ, LIBRADOS_CREATE_IDEMPOTENT.
_EQUAL = 1
_IDEMPOTENT = 0


def load(ioctx):
    """Return a dict of (fsid, seconds since the epoch) by store.

    :param ioctx: rados.Ioctx of the pool
    :raises Error: if they cannot be read
    """
    found = {}
    last = ''
    while True:
        page = _page(ioctx, last)
        for store, text in page:
            entry = _parse(store, text)
            if entry:
                found[store] = entry
        if len(page) < _PAGE:
            return found
        last = page[-1][0]


def add(ioctx, store, fsid):
    """Note the cluster of a store, unless there is a note already.

    :returns: whether it was noted
    :raises Error: if it could not be
    """
    with rados.WriteOpCtx() as op:
        op.new(_IDEMPOTENT)
        ioctx.operate_write_op(op, OBJECT)
    with rados.WriteOpCtx() as op:
        # What is not there equals an empty value.
        op.omap_cmp(store, '', _EQUAL)
        try:
            _set(ioctx, op, store, fsid)
        except rados.Error as exc:
            if abs(exc.errno or 0) == errno.ECANCELED:
                return False
            raise
    return True


def replace(ioctx, store, fsid):
    """Note the cluster of a store in place of what was noted.

    :returns: the fsid that was noted, or None
    :raises Error: if it could not be
    """
    before = load(ioctx).get(store, (None, None))[0]
    gone = {*former(ioctx, store), before} - {fsid, None}
    with rados.WriteOpCtx() as op:
        _set(ioctx, op, store, fsid, sorted(gone))
    return before


def former(ioctx, store):
    """Return the fsids of the clusters that a store had before, as a set.

    :raises Error: if they cannot be read
    """
    with rados.ReadOpCtx() as op:
        entries, _code = ioctx.get_omap_vals_by_keys(op, (store,))
        try:
            ioctx.operate_read_op(op, OBJECT)
        except rados.ObjectNotFound:
            return set()
        for _store, text in entries:
            try:
                return set(json.loads(text).get('former', ()))
            except (ValueError, AttributeError, TypeError) as exc:
                LOG.warning('What is noted of the former clusters of store '
                            '%s cannot be understood and is left aside: %s',
                            store, exc)
    return set()


def _set(ioctx, op, store, fsid, gone=()):
    fields = {'fsid': fsid, 'since': time.time()}
    if gone:
        fields['former'] = gone
    ioctx.set_omap(op, (store,), (json.dumps(fields).encode(),))
    ioctx.operate_write_op(op, OBJECT)


def _page(ioctx, after):
    with rados.ReadOpCtx() as op:
        entries, _code = ioctx.get_omap_vals(op, after, '', _PAGE)
        try:
            ioctx.operate_read_op(op, OBJECT)
        except rados.ObjectNotFound:
            return []
        return list(entries)


def _parse(store, text):
    try:
        fields = json.loads(text)
        return str(fields['fsid']), float(fields['since'])
    except (ValueError, KeyError, TypeError) as exc:
        LOG.warning('What is noted of the cluster of store %s cannot be '
                    'understood and is left aside: %s', store, exc)
        return None
