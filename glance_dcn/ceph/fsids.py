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

"""Which cluster each store has: kept at home, an omap with a key for each."""

from __future__ import annotations

import dataclasses
import logging
import time

import rados

from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format

LOG = logging.getLogger(__name__)

#: What every function of this module raises when the cluster refuses.
Error = omap.Error
#: Name of the RADOS object.
OBJECT = 'fsids'


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is kept of a store.

    :ivar since: when that was noted, seconds since the epoch; for people to
        read
    :ivar former: fsids of the clusters that it had before
    """

    fsid: str
    since: float
    former: tuple[str, ...] = ()


def load(ioctx: rados.Ioctx, deployment: str) -> dict[str, Entry]:
    """Return what is kept, by store; what cannot be read is left out.

    :param ioctx: of the home's namespace
    :raises Error: if the cluster refuses
    """
    found = {}
    for store, text in omap.walk(ioctx, OBJECT):
        entry = _parse(store, text, deployment)
        if entry:
            found[store] = entry
    return found


def add(ioctx: rados.Ioctx, deployment: str, store: str, fsid: str) -> bool:
    """Note the cluster of a store, unless there is a note already.

    :raises Error: if the cluster refuses
    """
    return omap.swap(ioctx, OBJECT, store, None, record_format.dump(
        Entry(fsid, time.time()), deployment))


def replace(ioctx: rados.Ioctx, deployment: str, store: str,
            fsid: str) -> str | None:
    """Note the cluster of a store in place of what was noted.

    :returns: the fsid that was noted, or None
    :raises Error: if the cluster refuses
    """
    text = omap.get(ioctx, OBJECT, store)
    before = text and _parse(store, text, deployment)
    gone = {*before.former, before.fsid} - {fsid} if before else set()
    omap.put(ioctx, OBJECT, {store: record_format.dump(
        Entry(fsid, time.time(), tuple(sorted(gone))), deployment)})
    return before.fsid if before else None


def former(ioctx: rados.Ioctx, deployment: str, store: str) -> set[str]:
    """Return the fsids of the clusters that a store had before.

    :raises Error: if the cluster refuses
    """
    text = omap.get(ioctx, OBJECT, store)
    entry = text and _parse(store, text, deployment)
    return set(entry.former) if entry else set()


def _parse(store: str, text: str, deployment: str) -> Entry | None:
    try:
        return record_format.load(Entry, text, deployment)
    except record_format.ForeignRecord:
        return None
    except record_format.RecordError as exc:
        LOG.warning('What is noted of the cluster of store %(store)s cannot '
                    'be understood and is left alone: %(error)s',
                    {'store': store, 'error': exc})
        return None
