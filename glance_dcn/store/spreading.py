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

"""Imports to many stores: what one store has is copied to the others in waves.

Glance gives the staged image to one store after the other. When the store of
this site has it, and several far ones or many are still to get it, it is
copied to all of these at once, as ``copy-image`` does. Glance's own loop then
finds it there when it comes to them: each compares the staged image with what
is there and adopts it, so that all that Glance does for a store stays
Glance's: hashes, signature, inspection, and when the image becomes active.

A store that could not be copied to is given the image as ever. What was copied
and is not adopted, because the import has failed, is removed by the task
runner, like everything of which Glance has no location.
"""

from __future__ import annotations

import logging
import threading
import typing

from glance_dcn.imports import active_imports
from glance_dcn.runtime import native
from glance_dcn.sites import copying
from glance_dcn.sites import sources

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping

    from oslo_config import cfg

    from glance_dcn.ceph import records
    from glance_dcn.sites import site as sites_

LOG = logging.getLogger(__name__)

# Methods of imports that stage an image.
_METHODS = ('glance-direct', 'web-download', 'glance-download')
# Stores for which it is worth while: so many that are far, or so many at all.
# Of a near one nothing is gained: it is written in about the time that it
# takes to compare what is there with the staged image.
_FEWEST = 2
_MANY = 6
# Seconds that a question to a far site takes.
_FAR = 0.003
# Seconds between calls of what keeps a task alive.
_INTERVAL = 10


class _Ended(Exception):
    """The import has come to its end."""


class Spreading:
    """The copies of one import to the stores whose turn is still to come.

    :param sites: all of this process, by name
    """

    def __init__(self, going_on: active_imports.Import, conf: cfg.ConfigOpts,
                 sites: Mapping[str, sites_.Site]) -> None:
        self._import = going_on
        self._conf = conf
        self._sites = sites
        # Of the store of this site, once it has the image.
        self._source: tuple[sites_.Site, records.Record] | None = None
        self._stored: set[str] = set()
        # Whether a copy has come off, by store; each is told once.
        self._outcomes: dict[str, native.Queue[bool]] = {}
        self._lock = native.lock()

    def stored(self, site: sites_.Site, record: records.Record) -> None:
        """Record that a store has the image."""
        with self._lock:
            self._stored.add(site.name)
            if site.name == self._conf.glance_store.default_backend:
                self._source = site, record

    def prepare(self, site: sites_.Site,
                waiting: Callable[[list[str]], object] | None) -> None:
        """Wait until a store has been copied to, if it is to be.

        :param waiting: called now and then; its exceptions end the waiting
        """
        with self._lock:
            targets = [] if self._outcomes else self._targets()
            source = self._source
            worth_it = _is_worth_it(targets)
            if worth_it:
                self._outcomes = {target.name: native.Queue()
                                  for target in targets}
        if worth_it:
            # Of eventlet's kind where it has patched Glance.
            threading.Thread(target=self._copy, args=(source, targets),
                             daemon=True, name='dcn-spread').start()
        outcome = self._outcomes.get(site.name)
        while outcome is not None:
            try:
                native.get(outcome, _INTERVAL)
                return
            except native.Empty:
                if waiting:
                    waiting([site.name])

    def _targets(self) -> list[sites_.Site]:
        if self._source is None:
            return []
        wanted = [self._sites.get(name)
                  for name in self._import.entry.stores if name]
        return [site for site in wanted
                if site is not None and site.name not in self._stored]

    def _copy(self, source: tuple[sites_.Site, records.Record],
              targets: list[sites_.Site]) -> None:
        site, record = source
        options = self._conf.glance_dcn
        image = self._import.entry.image
        try:
            copying.Copy(
                image, [sources.Source(site, None, image, 'snap')], targets,
                hashes=record.hashes, size=record.size,
                memory=options.transfer_memory << 20,
                at_once=options.copy_targets,
                progress=self._check, waiting=self._check,
                finished=self._tell).run()
        except Exception as exc:
            # Each store is given the image by itself.
            LOG.warning('Image %(image)s is not copied from store %(store)s '
                        'to the others of its import: %(error)s', {
                            'image': image, 'store': site.name,
                            'error': str(exc) or type(exc).__name__})
        finally:
            for outcome in self._outcomes.values():
                outcome.put(False)

    def _check(self, _progress: typing.Any) -> None:
        if active_imports.get(self._import.entry.task) is not self._import:
            raise _Ended

    def _tell(self, outcome: copying.Outcome,
              told: Callable[[], None]) -> None:
        # From here on it is kept for its store to adopt. What has failed is
        # still to be removed: those stores are told at the end.
        told()
        for name in outcome.copied:
            self._outcomes[name].put(True)


def _is_worth_it(targets: list[sites_.Site]) -> bool:
    """Return whether to copy to stores is faster than to write each.

    A site of unknown distance counts as a far one.
    """
    known = [site.connection.round_trip for site in targets]
    far = [seconds for seconds in known if seconds is None or seconds >= _FAR]
    return len(far) >= _FEWEST or len(targets) >= _MANY


def of(going_on: active_imports.Import, conf: cfg.ConfigOpts,
       sites: Mapping[str, sites_.Site]) -> Spreading | None:
    """Return the spreading of an import; None: it is not to be spread."""
    # The options of the import plugins, which may not be registered.
    options = getattr(conf, 'glance_dcn', None)
    if (going_on.entry.method not in _METHODS
            or len(going_on.entry.stores) <= _FEWEST
            or not getattr(options, 'direct_copy', False)):
        return None
    # One step: no two threads get different ones.
    found: Spreading = going_on.companions.setdefault(
        'spreading', Spreading(going_on, conf, sites))
    return found
