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

"""Keeps the record of sites, and drops those that are gone and empty.

All processes and hosts of one home share it. At each host the leader keeps it,
and the others follow what it leaves beside its lead. A host that has the file
of a site says so in the record; a site of which no host says so any more is
dropped when its pool is empty, by the host that sees it first: the others see
that it is recorded no more.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import typing

import rbd

from glance_dcn.ceph import definitions
from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.sites import folder
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable

    from glance_dcn.sites import site as sites_
    from glance_dcn.store import dynamic_stores
    from glance_dcn.tasks import queue

LOG = logging.getLogger(__name__)

# Seconds after which a host says again that it has a file, and for which it
# is believed.
_AGAIN = 600
_BELIEVED = 3600
# Times in a row that a pool must be seen empty: an upload that began before
# the site was taken away may be about to create its image.
_EMPTY = 2
# While it is not, which may be for years: seconds for which it is inspected
# each time, and after that seconds until it is inspected again, at most, and
# as a part of the time that this goes on.
_EAGER = 60
_PAUSE = 600
_PATIENCE = 5
# Name of what is left to the other processes of the host.
_PUBLISHED = 'sites'


def is_empty(site: sites_.Site) -> bool:
    """Return whether the pool of a site has no image.

    :raises glance_dcn.ceph.errors.ClusterError: if the site is away
    :raises rbd.Error, glance_dcn.ceph.omap.Error: if the cluster refuses
    """
    with site.open_pool() as ioctx:
        return site.call(images.is_empty, ioctx, fence=False)


class SiteRegistry:
    """The record of sites, as one process keeps it.

    :param sites: returns those of all dcn stores of the process
    :param tasks: of which the sites have some yet or not
    :param clock: returns seconds since the epoch
    :param monotonic: returns seconds of a monotonic clock
    :param is_empty: returns whether the pool of a site has no image; raises
        ClusterError, :class:`rbd.Error` or :class:`omap.Error`
    :param records: as :class:`glance_dcn.ceph.definitions.Definitions`
    :ivar present: names of the site files of this host, or None while they
        are not known
    """

    def __init__(self, stores: dynamic_stores.DynamicStores,
                 sites: Callable[[], list[sites_.Site]],
                 tasks: queue.TaskQueue, host: str | None = None,
                 clock: Callable[[], float] = time.time,
                 monotonic: Callable[[], float] = time.monotonic,
                 is_empty: Callable[[sites_.Site], bool] = is_empty,
                 records: Callable[..., definitions.Definitions] = (
                     definitions.Definitions)) -> None:
        self.present: frozenset[str] | None = None
        self._stores = stores
        self._sites = sites
        self._host = (host or socket.gethostname()).replace('/', '_')
        self._clock, self._monotonic = clock, monotonic
        self._is_empty, self._records = is_empty, records
        # Sites that were seen in the record: one of these that is missing
        # there was dropped by another process.
        self._recorded: set[str] = set()
        self._empty: dict[str, int] = {}
        # (since when, next inspection) of those that are not empty, by the
        # monotonic clock.
        self._waiting: dict[str, tuple[float, float]] = {}
        self._told: dict[str | None, str] = {}
        self._tasks = tasks
        # What was left to the other processes last.
        self._left: tuple[object, str] | None = None

    def exchange(self, home: sites_.Site | None) -> bool:
        """Write and read the record; drop what is gone and empty.

        :returns: whether it is to be done again soon
        """
        if self.present is None:
            return True
        if home is None:
            self._tell(None, 'No dcn store of enabled_backends keeps the '
                       'records: sites that are taken away are '
                       'forgotten when Glance restarts.')
            for name in self._retired():
                self._drop_if_empty(name)
            return True
        try:
            with homes.Home(home).open() as ioctx:
                self._exchange(self._records(
                    home.name, ioctx, self._tasks.store.deployment,
                    home.call),
                    self.present)
        except (errors.ClusterError, definitions.RecordError) as exc:
            self._tell(None, 'The record of sites cannot be kept for now: %s'
                       % exc)
            return True
        self._told.pop(None, None)
        return bool(self._retired()) or not self._recorded.issuperset(
            self._stores.entries)

    def follow(self) -> None:
        """Serve and drop what the leader of the host serves and drops."""
        if self.present is None:
            return
        text = self._tasks.lead.published(_PUBLISHED)
        if text is None:
            return
        try:
            known = json.loads(text)
            for name, options in known.items():
                if options is None:
                    continue
                if name not in self.present:
                    self._serve(name, definitions.Definition(dict(options)))
                self._recorded.add(name)
        except (ValueError, TypeError, AttributeError) as exc:
            self._tell(None, 'The sites that the leader of this host has '
                       'recorded cannot be understood: %s' % exc)
            return
        for name in self._retired():
            if name not in known and name in self._recorded:
                self._drop(name)

    def _publish(self, of_other_release: Iterable[str]) -> None:
        """Leave the recorded sites to the other processes of the host.

        :param of_other_release: sites of which another release has recorded
            something: they stay as each process has them, and have null for
            options
        """
        text = json.dumps({
            **{name: self._stores.entries[name].options
               for name in sorted(self._recorded)
               if name in self._stores.entries},
            **dict.fromkeys(sorted(of_other_release))})
        left = self._tasks.lead.term, text
        if self._left == left:
            return
        try:
            self._tasks.lead.publish(_PUBLISHED, text)
            self._left = left
        except OSError as exc:
            self._tell(None, 'The other processes of this host do not learn '
                       'of sites that were taken away: %s' % exc)

    def _exchange(self, recorded: definitions.Definitions,
                  present: frozenset[str]) -> None:
        found = recorded.load()
        known, mine = self._understood(found)
        for name, entry in mine.items():
            if name in known:
                self._recorded.add(name)
            if not entry.retired:
                self._keep(recorded, known.get(name), name, entry)
            elif name not in known and name in self._recorded:
                self._drop(name)
            elif name not in known:
                recorded.save(name, entry.options)
                self._recorded.add(name)
        for name, definition in known.items():
            if name not in present:
                if self._host in definition.holders:
                    recorded.release(name, self._host)
                self._serve(name, definition)
        for name in set(self._retired()) - set(found.of_other_release):
            holders = known[name].holders if name in known else {}
            if not self._is_held(holders) and self._drop_if_empty(name):
                recorded.forget(name, holders)
        self._publish(found.of_other_release)

    def _understood(self, found: definitions.Recorded) -> tuple[
            dict[str, definitions.Definition],
            dict[str, dynamic_stores.Entry]]:
        """Return what is recorded, and entries, but for other releases.

        Of a site of which another release has recorded something, nothing is
        written, served or dropped.
        """
        for name, reason in found.of_other_release.items():
            self._tell(name, 'What is recorded of site %s is of another '
                       'release and is left alone; what this process has of '
                       'the site stays, too: %s' % (name, reason))
        return ({name: definition for name, definition in found.sites.items()
                 if name not in found.of_other_release},
                {name: entry for name, entry in self._stores.entries.items()
                 if name not in found.of_other_release})

    def _keep(self, recorded: definitions.Definitions,
              definition: definitions.Definition | None, name: str,
              entry: dynamic_stores.Entry) -> None:
        """Record a site of this host."""
        if definition is None or definition.options != entry.options:
            recorded.save(name, entry.options)
            self._recorded.add(name)
        now = self._clock()
        said = definition and definition.holders.get(self._host)
        if not said or not 0 <= now - said < _AGAIN:
            recorded.hold(name, self._host, now)

    def _serve(self, name: str, definition: definitions.Definition) -> None:
        """Make a store of a site whose file is gone, unless there is one."""
        if name in self._stores.entries:
            return
        try:
            self._stores.check(name, definition.options)
            self._check_conf_file(definition.options)
            self._stores.adopt(name, definition.options)
        except folder.Mistake as exc:
            self._tell(name, 'Site %s was taken away and is recorded, but '
                       'what it holds cannot be served: %s' % (name, exc))
            return
        self._recorded.add(name)
        LOG.warning('Site %s was taken away: its store takes no new images, '
                    'and serves what it holds until it is empty', name)

    def _check_conf_file(self, options: dict[str, str]) -> None:
        """Check that the record alone does not say what file is read.

        A client that may write to the pool could name a file of its own:
        librados obeys what is in it.
        """
        path = options.get('rbd_store_ceph_conf')
        if not path:
            return
        trusted = {os.path.dirname(os.path.realpath(site.config.conf_file))
                   for site in self._sites() if site.config.conf_file}
        if os.path.dirname(os.path.realpath(path)) not in trusted:
            raise folder.Mistake(
                'its rbd_store_ceph_conf %s is in none of the folders that '
                'other stores have their conf files in' % path)

    def _retired(self) -> list[str]:
        return [name for name, entry in self._stores.entries.items()
                if entry.retired]

    def _is_held(self, holders: dict[str, float]) -> bool:
        now = self._clock()
        return any(now - said < _BELIEVED for host, said in holders.items()
                   if host != self._host)

    def _drop_if_empty(self, name: str) -> bool:
        """Drop a store whose pool is empty; return whether it was."""
        site = self._stores.entries[name].store.site
        now = self._monotonic()
        since, due = self._waiting.setdefault(name, (now, now))
        if now < due:
            return False
        try:
            empty = (self._is_empty(site) and not
                     self._tasks.store.scan().has_any_of(name))
        except (errors.ClusterError, rbd.Error, omap.Error) as exc:
            LOG.debug('Whether site %s is empty cannot be told: %s', name,
                      exc)
            return False
        self._empty[name] = self._empty.get(name, 0) + 1 if empty else 0
        if self._empty[name] < _EMPTY:
            if not empty and now - since > _EAGER:
                self._waiting[name] = (since, now + min(
                    _PAUSE, (now - since) / _PATIENCE))
            return False
        self._drop(name)
        return True

    def _drop(self, name: str) -> None:
        self._stores.drop(name)
        self._recorded.discard(name)
        self._empty.pop(name, None)
        self._waiting.pop(name, None)
        LOG.info('Site %s was taken away and holds no images any more: its '
                 'store is dropped', name)

    def _tell(self, about: str | None, text: str) -> None:
        if self._told.get(about) != text:
            LOG.warning(text)
        self._told[about] = text
