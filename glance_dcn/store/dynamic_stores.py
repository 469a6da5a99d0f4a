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

"""Stores that come and go: how they become Glance's, and cease to be.

Glance finds a store in two places: the option ``enabled_backends``, and
glance_store's map of stores by scheme. A store that comes is put into the map
before it is enabled; one that goes is taken off in the other order. Parts of
the map are replaced, not changed, for requests walk through them; and so is
the option, as a whole and with the reserved stores in it, which Glance adds to
what it finds.

A store that was taken away is enabled as of type ``http``, the one type that
Glance takes for read-only: ``GET /v2/info/stores`` says so, ``all_stores``
leaves it out, and its images are found as before. (It refuses http
locations.)
"""

from __future__ import annotations

import dataclasses
import typing

from glance_store import driver
from glance_store import exceptions
from glance_store import location
from glance_store import multi_backend

from glance_dcn.ceph import connection
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import folder
from glance_dcn.store import options as store_options
from glance_dcn.upstream import glance_interfaces

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from glance_dcn.store import driver as drivers
    from glance_dcn.tasks import queue

_SCHEMES = ('dcn', 'rbd')
_READ_ONLY = 'http'
# Options that a store follows as it is; for others it is built again.
_FOLLOWED = ('store_description', 'weight', 'dcn_max_transfers',
             'dcn_bandwidth_limit')


@dataclasses.dataclass
class Entry:
    """A store that came while Glance runs.

    :ivar retired: whether it was taken away, and serves what it holds
    """

    store: drivers.Store
    options: dict[str, str]
    retired: bool


class DynamicStores:
    """The stores of a process that come and go.

    :param conf: with enabled_backends as configured
    :ivar changed: set when anything was; for what clears it
    """

    def __init__(self, conf: cfg.ConfigOpts,
                 kind: type[drivers.Store], tasks: queue.TaskQueue) -> None:
        self._conf = conf
        self._kind = kind
        self._tasks = tasks
        # Two threads change the stores.
        self._lock = process.ForkLocal(native.lock)
        self._static = frozenset(conf.enabled_backends)
        self._ours: set[str] = set()
        self.entries: dict[str, Entry] = {}
        self.changed = False

    def check(self, name: str, options: dict[str, str]) -> list[str]:
        """Check that a site can become a store; return its unknown options.

        :param options: as text, by name
        :raises folder.Mistake: if it cannot
        """
        folder.check_name(name)
        if name in self._static:
            raise folder.Mistake(
                'there is a store %s in enabled_backends already; it must be '
                'in one of the two' % name)
        if name in self._conf and name not in self._ours:
            raise folder.Mistake(
                '[%s] is a section or option of Glance itself; the store '
                'needs another name' % name)
        known = _known_options()
        for option in set(options) & set(known):
            try:
                known[option].type(options[option])
            except (ValueError, TypeError) as exc:
                raise folder.Mistake('%s: %s' % (option, exc))
        return sorted(set(options) - set(known))

    def put(self, name: str, options: dict[str, str],
            retired: bool = False) -> None:
        """Add a store, or make it follow other options.

        Requests that have the old one go on with it.

        :raises folder.Mistake: if it cannot be set up
        """
        with self._lock.get():
            self._put(name, options, retired)

    def adopt(self, name: str, options: dict[str, str]) -> None:
        """Add a store that was taken away, unless there is one of its name.

        :raises folder.Mistake: if it cannot be set up
        """
        with self._lock.get():
            if name not in self.entries:
                self._put(name, options, retired=True)

    def drop(self, name: str) -> None:
        """Remove a store that was taken away."""
        with self._lock.get():
            if name in self.entries and self.entries[name].retired:
                del self.entries[name]
                set_types(self._conf, {name: None})
                _place((), name, None)
                # What runs for the site beside requests.
                self._tasks.remove(name)
                process.get(cluster_identity.ClusterIdentities).remove(name)
                process.get(connection.Connections).forget(name)
                self.changed = True

    def _put(self, name: str, options: dict[str, str], retired: bool) -> None:
        self._ours.add(name)
        known = self.entries.get(name)
        try:
            if known and _lasting(known.options) == _lasting(options):
                store = known.store
                self._set_options(name, options)
                store.take_limits()
            else:
                store = self._kind(self._conf, backend=name)
                self._set_options(name, options)
                store.configure(re_raise_bsc=True)
        except Exception as exc:
            self._restore(name, known)
            if isinstance(exc, exceptions.BadStoreConfiguration):
                raise folder.Mistake(str(exc))
            raise
        process.get(connection.Connections).forget(name, store.site.config)
        store.site.retired = retired
        schemes = _SCHEMES + ((_READ_ONLY,) if retired else ())
        _place(schemes, name, {
            'store': store, 'store_entry': 'dcn',
            'location_class': store.get_store_location_class()})
        set_types(self._conf, {name: _READ_ONLY if retired else 'rbd'})
        self.entries[name] = Entry(store, dict(options), retired)
        self.changed = True

    def _restore(self, name: str, known: Entry | None) -> None:
        """Put all that a store has back, as it could not be changed."""
        if known is None:
            process.get(connection.Connections).forget(name)
            return
        site = known.store.site
        self._set_options(name, known.options)
        known.store.take_limits()
        is_home = self._tasks.home.name == name
        process.get(cluster_identity.ClusterIdentities).add(site, is_home)
        self._tasks.add(site, is_home)
        process.get(connection.Connections).forget(name, site.config)

    def _set_options(self, name: str, options: dict[str, str]) -> None:
        for option in _known_options():
            if option in options:
                # Nothing of Glance's own options gets in by substitution.
                self._conf.set_override(
                    option, options[option].replace('$', '$$'), group=name)
            else:
                self._conf.clear_override(option, group=name)


class _StoreTypes:
    """All that was changed of ``enabled_backends``, of one configuration.

    Each change sets them all, so that none is lost, whatever value oslo.config
    keeps.
    """

    def __init__(self) -> None:
        self._lock = process.ForkLocal(native.lock)
        self._conf: cfg.ConfigOpts | None = None
        self._types: dict[str, str | None] = {}

    def set(self, conf: cfg.ConfigOpts,
            types: dict[str, str | None]) -> None:
        """Set the types of some stores; see :func:`set_types`."""
        with self._lock.get():
            if conf is not self._conf:
                self._conf, self._types = conf, {}
            self._types.update(types)
            enabled = {**conf.enabled_backends,
                       **multi_backend._RESERVED_STORES, **self._types}
            conf.set_override('enabled_backends', {
                name: kind for name, kind in enabled.items()
                if kind is not None})


def set_types(conf: cfg.ConfigOpts, types: dict[str, str | None]) -> None:
    """Set the types of some stores, if the reserved stores can be kept.

    :param types: type by identifier of the store; None: not enabled any more
    """
    if glance_interfaces.usable(glance_interfaces.RESERVED_STORES):
        process.get(_StoreTypes).set(conf, types)


def refresh(conf: cfg.ConfigOpts) -> None:
    """Make oslo.config forget the values it keeps of all options.

    A request may have kept one that it looked up during a change.
    """
    set_types(conf, {})


def _lasting(options: dict[str, str]) -> dict[str, str]:
    """Return the options that a store is built of."""
    return {name: text for name, text in options.items()
            if name not in _FOLLOWED}


def _known_options() -> dict[str, cfg.Opt]:
    return {opt.name: opt for opt in (*driver.Store.MULTI_BACKEND_OPTIONS,
                                      *store_options.STORE_OPTS)}


def _place(schemes: tuple[str, ...], name: str,
           info: dict[str, typing.Any] | None) -> None:
    """Put a store into glance_store's map under these schemes alone."""
    found = location.SCHEME_TO_CLS_BACKEND_MAP
    for scheme in schemes:
        found[scheme] = {**found.get(scheme, {}), name: info}
    for scheme in (*_SCHEMES, _READ_ONLY):
        if scheme in schemes or name not in found.get(scheme, ()):
            continue
        left = {other: one for other, one in found[scheme].items()
                if other != name}
        if left or scheme != _READ_ONLY:
            found[scheme] = left
        else:
            # As if no store of this type had ever been there.
            del found[scheme]
