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

"""Where tasks and intents are kept: at home, one omap for all sites.

Home is the cluster of the process's own default store, in a namespace that
users of other sites have no right to (:mod:`glance_dcn.sites.home`). While it
is away, records go to the local disk (:mod:`glance_dcn.tasks.spool`).
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import typing

from glance_dcn.ceph import errors
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.sites import home as homes
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import rados

    from glance_dcn.tasks import spool as spools

LOG = logging.getLogger(__name__)

#: Name of the object.
OBJECT = 'tasks'
#: What the keys of leases begin with.
LEASES = 'lease/'

_T = typing.TypeVar('_T')

AWAY = (errors.ClusterError, omap.Error)


class NotRecorded(errors.ClusterError):
    """A task or an intent could not be recorded anywhere."""


class OfOtherRelease(errors.ClusterError):
    """A record about an image is one of another release."""

    def __init__(self, store: str, entry: Unreadable, image: str) -> None:
        super().__init__(
            store, 'record %s about image %s is unreadable: %s'
            % (entry.key, image, entry.reason), 'nothing of the image is '
            'removed meanwhile; see "glance-dcn task list"')


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A record that cannot be understood, and is left alone.

    :ivar foreign: whether it is of another deployment
    :ivar version: that of the release that has to act upon it; None: it is
        damaged, or of another deployment
    """

    key: str
    reason: str
    foreign: bool
    version: int | None = None

    @property
    def site(self) -> str | None:
        """Identifier of the store that it is about, as far as is known."""
        return tasks.site_of(self.key)


@dataclasses.dataclass
class Scan:
    """All that was in the object at about one moment.

    :ivar records: tasks and intents, in the order of sites and images
    :ivar leases: texts of leases, by ID
    """

    records: list[tasks.Record] = dataclasses.field(default_factory=list)
    leases: dict[str, str] = dataclasses.field(default_factory=dict)
    unreadable: list[Unreadable] = dataclasses.field(default_factory=list)

    @property
    def own_unreadable(self) -> list[Unreadable]:
        """The unreadable records, without those of other deployments."""
        return [entry for entry in self.unreadable if not entry.foreign]

    def has_any_of(self, site: str) -> bool:
        """Return whether anything of this deployment is about a site."""
        return any(record.site == site for record in self.records) or any(
            entry.site in (site, None) for entry in self.own_unreadable)


class TaskStore:
    """The records of this process's home.

    :param spool: where records go while home is away; None: nowhere
    """

    def __init__(self, home: homes.Home, deployment: str = '',
                 spool: spools.Spool | None = None) -> None:
        self.home = home
        self.deployment = deployment
        self.spool = spool

    def text(self, record: tasks.Record) -> str:
        """Return a record as it is kept."""
        return record_format.dump(record, self.deployment)

    def put(self, *records: tasks.Record,
            others: dict[str, str] | None = None) -> bool:
        """Write records in one operation, over earlier ones of their keys.

        :param others: further keys and texts, written in the same operation
        :returns: whether they are at home; if not, they are on the local disk
        :raises NotRecorded: if they can be written to neither; none is then
        """
        texts = {record.key: self.text(record) for record in records}
        try:
            self._at_home(lambda ioctx: omap.put(
                ioctx, OBJECT, {**texts, **(others or {})}))
            return True
        except AWAY as exc:
            self._put_to_spool(records[0], texts, exc)
            return False

    def replace(self, old: tasks.Record, new: tasks.Record) -> bool:
        """Write a record if it is still what it was; return whether it was.

        :raises glance_dcn.ceph.errors.ClusterError: if home is away
        :raises glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        if self._in_spool(new, lambda spool: spool.swap(
                old.key, self.text(old), self.text(new))):
            return True
        return self._at_home(lambda ioctx: omap.swap(
            ioctx, OBJECT, old.key, self.text(old), self.text(new)))

    def remove(self, record: tasks.Record) -> bool:
        """Remove a record unless it was changed; return whether it was.

        :raises: as :meth:`replace`
        """
        if self._discard_in_spool(record):
            return True
        return self._at_home(lambda ioctx: omap.remove(
            ioctx, OBJECT, record.key, self.text(record)))

    def remove_later(self, record: tasks.Record) -> None:
        """Remove a record, unless it was changed, without waiting.

        One that stays is removed by the task runner.

        :raises: as :meth:`replace`
        """
        if self._discard_in_spool(record):
            return
        with self.home.open() as ioctx:
            omap.remove_later(ioctx, OBJECT, record.key, lambda: None,
                              self.text(record))

    def records(self, site: str, image: str) -> list[tasks.Record]:
        """Return the records of an image at a site.

        :raises OfOtherRelease: if there are others, of another release: what
            they say may forbid what is going to be done
        :raises: as :meth:`replace`
        """
        found = self._scan(tasks.prefix(site, image))
        for entry in found.own_unreadable:
            # A damaged one costs only itself: anything may have written it.
            if entry.version is not None:
                raise OfOtherRelease(self.home.name, entry, image)
        return found.records

    def scan(self) -> Scan:
        """Return all that is recorded.

        :raises: as :meth:`replace`
        """
        return self._scan('')

    @property
    def has_spooled(self) -> bool:
        """Whether this process has records on the local disk."""
        return self.spool is not None and bool(self.spool.items())

    def drain(self, abandoned: bool = True) -> None:
        """Move what is on the local disk to home.

        :param abandoned: also what processes have left that have ended
        :raises: as :meth:`replace`
        """
        if self.spool is None:
            return
        self.spool.move(self._put_home)
        if not abandoned:
            return
        for found, remove in self.spool.abandoned(self._check):
            for key, text in found.items():
                self._put_home(key, text)
            remove()

    def _check(self, texts: dict[str, str]) -> None:
        """See that texts are records which a process puts on the disk.

        :raises ValueError: if one is not
        """
        found = Scan()
        for key, text in texts.items():
            self._read(key, text, found)
        for entry in found.unreadable:
            raise ValueError('record %s: %s' % (entry.key, entry.reason))

    def _put_home(self, key: str, text: str) -> None:
        self.home.run(omap.put, OBJECT, {key: text})

    def _scan(self, prefix: str) -> Scan:
        found = Scan()
        # In this order: what is moved home meanwhile is seen there.
        spooled = dict(self.spool.items()) if self.spool is not None else {}
        at_home = self._at_home(
            lambda ioctx: list(omap.walk(ioctx, OBJECT, prefix)))
        for key, text in [
                *sorted(item for item in spooled.items()
                        if item[0].startswith(prefix)),
                *(item for item in at_home if item[0] not in spooled)]:
            if key.startswith(LEASES):
                found.leases[key[len(LEASES):]] = text
            elif key.startswith(tasks.SITES):
                self._read(key, text, found)
        return found

    def _at_home(self, work: Callable[[rados.Ioctx], _T]) -> _T:
        """Return what a function of the home's Ioctx returns.

        It is called again, on a new connection, if this client was cut off.

        :raises: as :meth:`replace`
        """
        try:
            return self.home.run(work)
        except omap.Error as exc:
            if abs(exc.errno or 0) != errno.ESHUTDOWN:
                raise
        return self.home.run(work)

    def _read(self, key: str, text: str, found: Scan) -> None:
        kind = tasks.kind_of(key)
        try:
            if kind is None:
                raise record_format.RecordError(
                    'its key is not that of a task')
            record: tasks.Record = record_format.load(kind, text,
                                                      self.deployment)
            if record.key != key:
                raise record_format.RecordError(
                    'its key is that of another record')
            found.records.append(record)
        except record_format.RecordError as exc:
            found.unreadable.append(Unreadable(
                key, str(exc), isinstance(exc, record_format.ForeignRecord),
                getattr(exc, 'version', None)))

    def _discard_in_spool(self, record: tasks.Record) -> bool:
        return self._in_spool(record,
                              lambda spool: spool.discard(record.key))

    def _in_spool(self, record: tasks.Record,
                  change: Callable[[spools.Spool], bool]) -> bool:
        if self.spool is None:
            return False
        try:
            return change(self.spool)
        except OSError as exc:
            raise self._not_recorded(record, 'not asked', exc) from exc

    def _put_to_spool(self, record: tasks.Record, texts: dict[str, str],
                      reason: Exception) -> None:
        try:
            if self.spool is None:
                raise OSError('there is no staging folder')
            if self.home.site is None:
                raise OSError('from where it could not be moved')
            self.spool.put(texts)
        except OSError as exc:
            raise self._not_recorded(record, reason, exc) from exc

    def _not_recorded(self, record: tasks.Record, reason: object,
                      exc: OSError) -> NotRecorded:
        return NotRecorded(
            record.site, 'work for image %s cannot be recorded: neither '
            'in store %s, which keeps the records in namespace %s (%s), '
            'nor on the local disk (%s)' % (
                record.image, self.home.name, homes.NAMESPACE, reason, exc),
            'see that store %s can be used, and that its user may write '
            'to that namespace' % self.home.name)
