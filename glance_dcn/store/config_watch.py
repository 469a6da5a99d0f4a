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

"""Follows what may change while Glance runs: site files, and limits.

Each process polls the folder of site files and the configuration files,
which touches no cluster, so that no absent site delays it. Where there is a
folder, the process that leads at its host keeps the record of its sites
(:mod:`glance_dcn.ceph.definitions`), and inspects whether those that were
taken away are empty; what is recorded it leaves beside its lead, from where
the others follow it.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import typing

from glance_store import location
from oslo_config import cfg

from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.sites import folder
from glance_dcn.store import dynamic_stores
from glance_dcn.store import options
from glance_dcn.store import site_registry

if typing.TYPE_CHECKING:
    from glance_dcn.sites import site as sites
    from glance_dcn.store import driver as drivers
    from glance_dcn.tasks import queue

LOG = logging.getLogger(__name__)

# Seconds between polls of files, and of the record.
_POLL = 4
_EXCHANGE = 10
# The same for the record while no site was taken away, and nothing changes.
_SETTLED = 30
# Polls in a row for which a file must be missing: some tools replace a file
# by removing it first.
_MISSING = 2

# Seconds for which that may hang until a sibling leads: sites are asked
# whether they are empty.
_HANGS = 180


def begin(conf: cfg.ConfigOpts, kind: type[drivers.Store],
          tasks: queue.TaskQueue) -> None:
    """Watch for changes on behalf of Glance; set up the sites there are.

    Called as each store is set up; the first call counts.
    """
    watch = process.find(ConfigWatch)
    if watch is not None:
        if watch.conf is conf:
            return
        watch.stop()
    watch = ConfigWatch(conf, kind, tasks)
    process.put(watch)
    watch.start()


class ConfigWatch:
    """Follows the files of one configuration."""

    def __init__(self, conf: cfg.ConfigOpts, kind: type[drivers.Store],
                 tasks: queue.TaskQueue) -> None:
        self.conf = conf
        self.stores = dynamic_stores.DynamicStores(conf, kind, tasks)
        self._tasks = tasks
        self._folder: folder.Folder | None = None
        self._missing: dict[str, int] = {}
        self._refused: dict[str, dict[str, str]] = {}
        self._files = _stat(conf)
        self._polling = periodic.Periodic('dcn-files', self.poll, _POLL)
        self.registry = site_registry.SiteRegistry(
            self.stores, lambda: [store.site for _name, store in _stores()],
            tasks)
        # Neither is used without a folder.
        self._exchange = periodic.Periodic('dcn-sites', self._keep_record,
                                           _EXCHANGE)
        path = conf[options.GROUP].sites_dir
        if path:
            self._folder = folder.Folder(path, self._check)

    def start(self) -> None:
        """Set up the sites of the folder; watch on, except in the command."""
        try:
            self._read_files(settled=False)
        except Exception:
            # The stores of enabled_backends work without them.
            LOG.exception('The site files could not be followed')
        if not self._tasks.enabled:
            return
        self._polling.start()
        if self._folder:
            self._exchange.start()
            self._tasks.lead.on_lead(self._exchange.wake)

    def stop(self) -> None:
        """Watch no more."""
        self._polling.stop()
        self._exchange.stop()

    def poll(self) -> None:
        """Take over what has changed in the files, and in the record."""
        self._read_files()
        if self._folder and not self._tasks.lead.is_held:
            self.registry.follow()
        self._mutate()

    def _read_files(self, settled: bool = True) -> None:
        """Take over what has changed in the files.

        At the start this comes alone: Glance does not have the stores of
        enabled_backends yet, which the record is compared with.

        :param settled: leave files alone that were changed a moment ago
        """
        if self.stores.changed:
            self.stores.changed = False
            dynamic_stores.refresh(self.conf)
        if self._folder:
            contents = self._folder.read(settled)
            if contents is not None:
                self._follow(contents)

    def _follow(self, contents: folder.Contents) -> None:
        for name, found in contents.sites.items():
            entry = self.stores.entries.get(name)
            if ((entry is None or entry.retired or entry.options != found)
                    and self._refused.get(name) != found):
                self._put(name, found)
        for name, entry in list(self.stores.entries.items()):
            if name in contents.present:
                self._missing.pop(name, None)
            elif not entry.retired:
                self._missing[name] = self._missing.get(name, 0) + 1
                if self._missing[name] >= _MISSING:
                    self._put(name, entry.options, retired=True)
        self.registry.present = contents.present

    def _put(self, name: str, found: dict[str, str],
             retired: bool = False) -> None:
        known = self.stores.entries.get(name)
        try:
            self.stores.put(name, found, retired)
        except Exception as exc:
            self._refused[name] = found
            LOG.error('Site %(name)s cannot be set up: %(reason)s',
                      {'name': name, 'reason': exc}, exc_info=not isinstance(
                          exc, folder.Mistake))
            return
        self._refused.pop(name, None)
        if retired:
            LOG.warning('The file of site %s was taken away: its store takes '
                        'no new images, and serves what it holds until it is '
                        'empty', name)
        elif known is None or known.retired:
            LOG.info('Site %s has a file: its store is there', name)
        else:
            LOG.info('The file of site %(name)s has changed: its store '
                     'follows %(changed)s', {
                         'name': name, 'changed': ', '.join(sorted(
                             key for key in {*known.options, *found}
                             if known.options.get(key) != found.get(key)))})
        self._exchange.wake()

    def _check(self, name: str, found: dict[str, str]) -> None:
        unknown = self.stores.check(name, found)
        if unknown:
            LOG.warning('Site file %(name)s.conf has options that no dcn '
                        'store knows; they are without effect: %(unknown)s', {
                            'name': name, 'unknown': ', '.join(
                                repr(option) for option in unknown)})

    def _mutate(self) -> None:
        """Follow mutable options, if a configuration file has changed.

        Those are the limits of stores in enabled_backends, among those of
        oslo's libraries.
        """
        files = _stat(self.conf)
        if files == self._files:
            return
        try:
            self.conf.mutate_config_files()
            for name, store in _stores():
                if name not in self.stores.entries:
                    store.take_limits()
        except (cfg.Error, ValueError, OSError) as exc:
            LOG.error('The configuration files were changed, and cannot be '
                      'used: %s. Limits stay as they are.', exc)
        # After anything else, such as an option that is registered while
        # oslo.config walks them all, the next poll takes the change over.
        self._files = files

    def _keep_record(self) -> None:
        lead = self._tasks.lead
        if not lead.is_held:
            return
        with lead.job('record of sites', _HANGS):
            settled = not self.registry.exchange(self._home_site())
        self._exchange.interval = _SETTLED if settled else _EXCHANGE

    def _home_site(self) -> sites.Site | None:
        """Return the site that keeps the records, unless it has a file too."""
        site = self._tasks.home.site
        return None if site is None or (
            site.name in self.stores.entries) else site


def _stores() -> list[tuple[str, drivers.Store]]:
    """Return (name, store) of all dcn stores of the process."""
    found = location.SCHEME_TO_CLS_BACKEND_MAP.get('dcn', {})
    return [(name, info['store']) for name, info in found.items()]


def _stat(conf: cfg.ConfigOpts) -> dict[str, tuple[int, int, int]]:
    """Return what tells another version of each configuration file."""
    found = {}
    paths = list(conf.config_file or ())
    for directory in conf.config_dir or ():
        paths += sorted(glob.glob(os.path.join(glob.escape(directory),
                                               '*.conf')))
    for path in paths:
        with contextlib.suppress(OSError):
            state = os.stat(path)
            found[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found
