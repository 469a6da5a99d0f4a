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

"""Connections to the Ceph clusters of the sites: one per site and process.

A connection is made on first use, by the process that uses it: librados
threads do not survive a fork, and servers such as uWSGI fork after the
application was loaded. It then serves every operation and every thread, until
it has been idle for a while (:mod:`glance_dcn.ceph.client_cache`) or the
cluster turns out to be away. From then on every use is refused at once, and a
new connection is made by the first use after the cluster is back: librados
finds its way back by itself, but may take minutes for it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import functools
import logging
import time
import typing

import rados

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import client_cache
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import monitors
from glance_dcn.ceph import state as states
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

LOG = logging.getLogger(__name__)

# Seconds that an OSD has to answer when a cluster that was away is probed.
_PROBE_TIMEOUT = 5
# Seconds to connect for a probe that tells whether a site is lost, where a
# monitor has answered: on a far link that takes dozens of round trips.
_FAR_CONNECT = 10
# Seconds by which a connection is waited for longer than librados is told to.
_GRACE = 1
# Retired clients of a site that may still be in use when another one is made:
# where a site comes and goes, their number must not grow with it.
_RETIRED = 4

_T = typing.TypeVar('_T')


class Connections:
    """The connections of a process, each shared by all that need it."""

    def __init__(self) -> None:
        self._known: dict[clients.ClusterConfig, Connection] = {}

    def get(self, config: clients.ClusterConfig) -> Connection:
        """Return the connection for a store."""
        if config not in self._known:
            # Without a lock, which might be held for ever after a fork.
            self._known.setdefault(config, Connection(config))
        return self._known[config]

    def forget(self, store: str,
               kept: clients.ClusterConfig | None = None) -> None:
        """Forget the connections of a store that is gone, or is another.

        Its cluster is not probed from then on. One that is in use still works.

        :param kept: what the store has, if it is not gone
        """
        for config, connection in list(self._known.items()):
            if config.name == store and config != kept:
                self._known.pop(config, None)
                connection._states.get().breaker.stop()


class _Pool(typing.NamedTuple):
    """An open pool.

    :ivar shared: its uses, after the last of which it is closed
    """

    entry: client_cache.Entry
    ioctx: rados.Ioctx
    shared: native.Shared


class Connection:
    """A connection to one cluster as one user, made on first use.

    Safe for use by many threads.

    :ivar round_trip: seconds that a monitor took to answer when it was last
        connected to; None: it never was
    :param patience: with a cluster that does not answer
    :param factory_of: makes what connects, by a configuration
    :param start: starts the thread that connects; see
        :func:`glance_dcn.runtime.native.start`
    """

    def __init__(self, config: clients.ClusterConfig,
                 caches: client_cache.Caches | None = None,
                 patience: states.Patience = states.PATIENCE,
                 factory_of: Callable[[clients.ClusterConfig],
                                      clients.ClientFactory] = (
                                          clients.ClientFactory),
                 start: Callable[..., object] = native.start) -> None:
        self.store = config.name
        self._caches = caches or process.get(client_cache.Caches)
        self.round_trip: float | None = None
        self._config = config
        self._patience = patience
        self._start = start
        self._factory = factory_of(config)
        # What is not to be waited for as long as a call may wait.
        self._prober = factory_of(dataclasses.replace(
            config, io_timeout=_PROBE_TIMEOUT))
        # To tell whether a site is lost, where a monitor has answered, or that
        # cannot be told; and where none has.
        self._verifier = factory_of(dataclasses.replace(
            config, connect_timeout=_FAR_CONNECT, io_timeout=_PROBE_TIMEOUT))
        self._hasty_verifier = factory_of(dataclasses.replace(
            config, connect_timeout=min(config.connect_timeout,
                                        clients.CONNECT_TIMEOUT),
            io_timeout=_PROBE_TIMEOUT))
        # What to call when the cluster is up.
        self._on_up: list[Callable[[], object]] = []
        # Open pools, by the identity of their Ioctx.
        self._pools: dict[int, _Pool] = {}
        # Only a parent has the librados threads that would be joined.
        self._states = process.ForkLocal(self._new_state)
        self._complaint: str | None = None

    @property
    def fsid(self) -> str | None:
        """The cluster's fsid, or None where it cannot be told.

        It is taken from the conf file, without talking to the cluster; a conf
        file that does not name it makes a connection necessary.
        """
        try:
            fsid = self._found_fsid() or self._factory.settings.fsid
            if fsid:
                return fsid
            with self.use() as client:
                return client.get_fsid()
        except errors.ClusterError as exc:
            self._complain(exc)
            return None

    @property
    def known_fsid(self) -> str | None:
        """The same, without ever waiting for the cluster.

        If it is not known, it is found out in the background.
        """
        state = self._states.get()
        try:
            fsid = self._found_fsid() or self._factory.settings.fsid
        except errors.ClusterError as exc:
            state.breaker.record_failure(exc)
            self._complain(exc)
            return None
        if not fsid and state.breaker.health.state == health.UNKNOWN:
            state.breaker.probe()
        return fsid

    @property
    def connected_fsid(self) -> str | None:
        """fsid of the cluster that this process has connected to, or None.

        It stays known until the site is lost, also if no client is needed.
        """
        return self._states.get().fsid

    def _found_fsid(self) -> str | None:
        """Return :attr:`connected_fsid`, unless the conf file has changed."""
        state = self._states.get()
        if state.fsid and not state.client and not self._factory.is_up_to_date:
            state.fsid = None
        return state.fsid

    @property
    def health(self) -> health.Health:
        """Health of the cluster."""
        state = self._states.get()
        if state.breaker.health.state == health.UNKNOWN:
            with contextlib.suppress(errors.ClusterError):
                self._check_files(state)
        return state.breaker.health

    def add_up_callback(self, function: Callable[[], object]) -> None:
        """Call a function each time the cluster is found to be up.

        It is called in a thread of its own; once at the beginning, too, if
        the cluster is known to be up. If that is not known, the cluster is
        not asked.
        """
        self._on_up.append(function)
        if periodic.is_master():
            return
        breaker = self._states.get().breaker
        if breaker.health.state == health.UP:
            breaker.call_when_up(function)

    @contextlib.contextmanager
    def use(self) -> Iterator[rados.Rados]:
        """Use the client of this process; it is connected if need be.

        It is not closed while the block runs.

        :raises Misconfigured: as :meth:`.ClientFactory.connect`
        :raises Unreachable: if the cluster does not answer, and at once while
            it is known to be away
        :raises Exhausted: if this process has too few threads or files
        """
        state = self._states.get()
        entry = self._acquire(state)
        try:
            yield entry.client
        finally:
            state.cache.release(entry)

    def _acquire(self, state: states.State) -> client_cache.Entry:
        while True:
            self.check()
            entry = state.cache.acquire(state)
            if entry is not None:
                return entry
            # It may be closed again before it is used, if there are many.
            self._connect_once(state)

    @contextlib.contextmanager
    def open_pool(self, pool: str) -> Iterator[rados.Ioctx]:
        """Open a pool for I/O.

        What fails in the block because the cluster is away opens the circuit
        breaker.

        :raises Misconfigured: if the cluster has no such pool
        :raises ClusterError: as :meth:`use`
        """
        state = self._states.get()
        entry = self._acquire(state)
        try:
            opened = self._open(entry, pool)
        except BaseException:
            state.cache.release(entry)
            raise
        try:
            with self._noticing_failure(entry.client):
                yield opened.ioctx
        finally:
            opened.shared.release()

    def _open(self, entry: client_cache.Entry, pool: str) -> _Pool:
        """Open a pool by a client that is in use, which it keeps."""
        client = entry.client
        try:
            ioctx = self._factory.open_pool(client, pool)
        except errors.Unreachable as exc:
            self._failed(exc, client)
            raise
        # On a full cluster requests fail at once instead of waiting for room.
        ioctx.set_osdmap_full_try()
        opened = self._pools[id(ioctx)] = _Pool(
            entry, ioctx, native.Shared(functools.partial(
                self._close_pool, self._states.get().cache, entry, ioctx)))
        return opened

    def _close_pool(self, cache: client_cache.ClientCache,
                    entry: client_cache.Entry, ioctx: rados.Ioctx) -> None:
        del self._pools[id(ioctx)]
        ioctx.close()
        cache.release(entry)

    @contextlib.contextmanager
    def _noticing_failure(self, client: rados.Rados) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            if getattr(exc, 'errno', None) == errno.ESHUTDOWN:
                LOG.warning('Store %s: this client was blocklisted by the '
                            'cluster; making a new connection', self.store)
                # librados does not come back from that by itself.
                self._states.get().retire(client)
            else:
                self._failed(exc, client)
            raise

    def call(self, function: Callable[..., _T], *args: typing.Any,
             late: Callable[[_T], object] | None = None,
             fence: bool = True) -> _T:
        """Call a function that waits for the cluster, while that is there.

        It is called by a thread of its own, which goes on when it was left.
        Pools of this connection among the arguments stay open until it ends,
        and so does their client; what else it uses must not be closed.

        :param late: called with what the function returns after it was left
        :param fence: whether what it has sent must not be carried out once it
            was left
        :raises Unreachable: if the cluster is found to be away meanwhile
        """
        state = self._states.get()
        if state.callers.is_caller():
            # It is waited for by another call.
            return function(*args)
        call = states.Call(function, args, late, self._share_pools(args))
        state.callers.submit(call)
        pause = self._patience.quiet
        while True:
            try:
                return call.wait(pause)
            except native.Empty:
                pause = self._patience.pause
            error = self.lost()
            if error is not None and call.leave():
                if fence:
                    self.blocklist_retired_clients()
                raise error

    def _share_pools(self, args: Iterable[object]) -> Callable[[], object]:
        """Begin a use of all pools among arguments; return what ends it."""
        pools = [self._pools[id(arg)].shared for arg in args
                 if id(arg) in self._pools]
        pools = [pool for pool in pools if pool.acquire()]
        return lambda: [pool.release() for pool in pools]

    def lost(self) -> errors.Unreachable | None:
        """Return why no answer of the cluster is to be waited for, or None.

        For what has had none for some seconds: a probe asks the cluster, on
        a connection of its own, and the next calls tell what it was answered.
        Nothing is waited for here.
        """
        state = self._states.get()
        try:
            state.breaker.check()
        except errors.Unreachable as exc:
            return exc
        with state.lock:
            suspicion, begun = state.suspicion, None
            if suspicion is None:
                if time.monotonic() - state.cleared < self._patience.quiet:
                    # It answers, if slowly: on a thin link, more probes would
                    # make it slower.
                    return None
                begun = state.suspicion = states.Suspicion(state.client)
        if begun is not None:
            process.get(schedulers.Scheduler).submit(functools.partial(
                self._verify, state, begun))
        elif suspicion and suspicion.is_over(time.monotonic(),
                                             self._patience.verdict):
            error = errors.Unreachable(
                self.store, 'neither a request nor a probe was answered '
                'within %d s' % self._patience.verdict, 'see that the site is '
                'up and can be reached, and that its cluster is healthy')
            self._conclude(state, suspicion, error)
            return error
        return None

    def _verify(self, state: states.State,
                suspicion: states.Suspicion) -> None:
        """Ask whether the cluster is there, where a client has no answer."""
        suspicion.answered()
        self.ask_monitors(lambda reason: process.get(
            schedulers.Scheduler).submit(functools.partial(
                self._verify_by_client, state, suspicion, reason)),
            first=True)

    def _verify_by_client(self, state: states.State,
                          suspicion: states.Suspicion,
                          reason: str | None) -> None:
        """Ask by a client of its own.

        :param reason: why no monitor has answered; None: one has, or that
            cannot be told
        """
        if reason is None:
            suspicion.answered()
        error: errors.Unreachable | None = None
        try:
            with state.cache.making(self.store, self._patience.room):
                self._ask_by_new_client(
                    state, self._hasty_verifier if reason else self._verifier,
                    suspicion.answered)
        except errors.Exhausted as exc:
            LOG.warning('%s; whether the site is lost is asked of its '
                        'monitors alone', exc)
            error = errors.Unreachable(
                self.store, 'a request is not answered, and neither do the '
                'monitors (%s)' % reason, 'see that the site is up and its '
                'monitors can be reached') if reason else None
        except errors.Unreachable as exc:
            error = exc
        except Exception as exc:
            # Not about its being away, as far as can be told.
            LOG.warning('Store %(store)s does not answer a request, and a '
                        'probe of its cluster failed: %(error)s', {
                            'store': self.store, 'error': exc})
        self._conclude(state, suspicion, error)

    def ask_monitors(self, then: Callable[[str | None], object],
                     first: bool = False) -> None:
        """Ask whether a monitor of the cluster answers, without a client.

        :param then: called with None if one does or that cannot be told, or
            with the reason, in a thread of the scheduler or at once;
            it must not block
        :param first: as in :meth:`glance_dcn.ceph.monitors.Monitors.ask`
        """
        try:
            addresses = monitors.parse(self._prober.settings.mon_host)
        except errors.ClusterError:
            addresses = []
        if addresses:
            process.get(monitors.Monitors).ask(addresses, then, first)
        else:
            # They have names alone, which only a client resolves.
            then(None)

    def _conclude(self, state: states.State, suspicion: states.Suspicion,
                  error: errors.Unreachable | None) -> None:
        """End a suspicion, unless that was done."""
        with state.lock:
            if state.suspicion is not suspicion:
                return
            state.suspicion = None
            if error is None:
                state.cleared = time.monotonic()
        if error is not None:
            self._retire(state, suspicion.client, error)

    @staticmethod
    def _retire(state: states.State, client: rados.Rados | None,
                error: errors.Unreachable) -> None:
        """Record that the cluster of a client is away."""
        if client is None or state.retire(client):
            state.breaker.record_failure(error)

    def hold(self, ioctx: rados.Ioctx) -> Callable[[], None]:
        """Keep the client of an open pool beyond the closing of the pool.

        :param ioctx: what :meth:`open_pool` gave, which is still open
        :returns: function that ends it
        """
        return self._states.get().cache.hold(self._pools[id(ioctx)].entry)

    def failed(self, exc: BaseException) -> bool:
        """Record what an operation ended with.

        :returns: whether it means that the cluster is away, so that from now
            on calls are refused
        """
        return self._failed(exc, self._states.get().client)

    def _failed(self, exc: BaseException, client: rados.Rados | None) -> bool:
        error = health.explain(exc, self.store)
        if error is not None:
            # If it is about a connection that was retired already, nothing is
            # said about the one that came after it.
            self._retire(self._states.get(), client, error)
        return error is not None

    def blocklist_retired_clients(self) -> None:
        """Prevent that what retired clients have sent is written later.

        They are blocklisted before another takes their place.
        """
        state = self._states.get()
        state.mark_retired()
        entry = state.cache.acquire(state)
        if entry:
            # It came before it was known.
            try:
                state.blocklist_marked(entry.client)
            finally:
                state.cache.release(entry)

    def blocklist(self, addresses: Iterable[str]) -> set[str]:
        """Blocklist clients of the cluster, this process's own among them.

        :param addresses: as :meth:`address_of` returns them
        :returns: those that could not be blocklisted
        """
        state = self._states.get()
        entry = state.entry
        if entry and entry.address in addresses:
            # Its users get an error, and the next call a new client.
            state.retire(entry.client)
        with self.use() as client:
            return clients.blocklist(client, addresses)

    @property
    def address(self) -> str | None:
        """Address of this process's client, or None if it has none."""
        entry = self._states.get().entry
        return entry.address if entry else None

    def is_outdated(self, ioctx: rados.Ioctx) -> bool:
        """Return whether a pool was opened by a client that was retired."""
        return self._pools[id(ioctx)].entry.is_retired

    @property
    def is_in_use(self) -> bool:
        """Whether this process has a client that something uses now."""
        entry = self._states.get().entry
        return entry is not None and entry.uses > 0

    def client_of(self, ioctx: rados.Ioctx) -> rados.Rados:
        """Return the client that a pool was opened by."""
        return self._pools[id(ioctx)].entry.client

    def address_of(self, ioctx: rados.Ioctx) -> str:
        """Return the address of the client that a pool was opened by."""
        return self._pools[id(ioctx)].entry.address

    def check(self) -> None:
        """Return if the cluster may be tried; costs nothing.

        :raises Misconfigured: if conf file or keyring cannot be read
        :raises Unreachable: while the cluster is away
        """
        state = self._states.get()
        state.breaker.check()
        self._check_files(state)

    def _check_files(self, state: states.State) -> None:
        if not state.client:
            try:
                self._factory.check_files()
            except errors.ClusterError as exc:
                state.breaker.record_failure(exc)
                raise

    def client(self) -> rados.Rados:
        """Connect if need be, and return the client.

        It may be closed at any time after it was idle: :meth:`use` keeps it.

        :raises ClusterError: as :meth:`use`
        """
        with self.use() as client:
            return client

    def _connect_once(self, state: states.State) -> None:
        """Connect, or wait for the thread that does."""
        with state.lock:
            if state.entry:
                return
            attempt = state.attempt
            begun = attempt is None
            if attempt is None:
                attempt = state.attempt = states.Attempt()
        if begun:
            try:
                self._start('dcn-connect-%s' % self.store, self._try, state,
                            attempt)
            except RuntimeError as exc:
                self._end(state, attempt, errors.Exhausted(
                    self.store, 'no thread can be started to connect (%s)'
                    % exc, 'raise pids.max (pids_limit of the container)'))
        try:
            attempt.wait(self._config.connect_timeout + _GRACE)
        except native.Empty:
            error = errors.Unreachable(
                self.store, 'there is no connection after %s s'
                % self._config.connect_timeout, 'see that the site is up, its '
                'monitors can be reached, and their names resolved')
            state.breaker.record_failure(error)
            raise error

    def _try(self, state: states.State, attempt: states.Attempt) -> None:
        error: errors.ClusterError | None = None
        try:
            with self._room(state):
                attempt.since = time.monotonic()
                client = self._connect()
                state.adopt(client)
                # Those that were marked since it was made, and before there
                # was a client that could be asked to.
                state.blocklist_marked(client)
        except errors.ClusterError as exc:
            error = exc
        except Exception as exc:
            LOG.exception('Connecting to the cluster of store %s failed',
                          self.store)
            error = errors.Unreachable(self.store, str(exc), 'see the log')
        if error and not isinstance(error, errors.Exhausted):
            state.breaker.record_failure(error)
        self._end(state, attempt, error)
        if not error:
            # Whether its OSDs are well, too, is to be seen.
            state.breaker.probe()

    @staticmethod
    def _end(state: states.State, attempt: states.Attempt,
             error: errors.ClusterError | None) -> None:
        with state.lock:
            state.attempt = None
        attempt.end(error)

    def _room(self, state: states.State
              ) -> contextlib.AbstractContextManager[None]:
        """Have room for another client while it is made."""
        retired = state.cache.retired_of(state)
        if retired >= _RETIRED:
            raise errors.Exhausted(
                self.store, '%d earlier connections still wait for answers '
                'to what was sent before the site was lost' % retired,
                'try again later; see dcn_io_timeout in [%s]' % self.store)
        return state.cache.making(self.store)

    def _connect(self) -> rados.Rados:
        client = self._factory.connect()
        self._states.get().blocklist_marked(client)
        self.round_trip = clients.round_trip(client)
        LOG.info('Store %(store)s is connected to cluster %(fsid)s as '
                 'client.%(user)s', {'store': self.store,
                                     'fsid': client.get_fsid(),
                                     'user': client.rados_id})
        return client

    def _check_cluster(self, state: states.State) -> None:
        """Return if the cluster can be used; for the circuit breaker.

        No client is kept that there was not before.
        """
        entry = state.cache.acquire(state)
        if entry is None:
            self._check_by_new_client(state)
            return
        try:
            if state.breaker.health.state == health.DOWN:
                self._check_by_new_client(state)
                return
            try:
                self._prober.check_pool(entry.client)
            except errors.Unreachable:
                state.retire(entry.client)
                raise
        finally:
            state.cache.release(entry)

    def _check_by_new_client(self, state: states.State) -> None:
        # Before it takes the place of a client.
        self._prober.check_files()
        # It waits for no room: that is for those who use a client.
        with state.cache.making(self.store, 0):
            self._ask_by_new_client(state, self._prober)

    def _ask_by_new_client(self, state: states.State,
                           factory: clients.ClientFactory,
                           answered: Callable[[], object] = lambda: None
                           ) -> None:
        """Ask the cluster through a client that is made for it.

        :param answered: called when the monitors have answered
        """
        client = factory.connect()
        try:
            answered()
            state.fsid = state.fsid or client.get_fsid()
            # At once: librados sends again what was not answered.
            state.blocklist_marked(client)
            self._prober.check_pool(client)
        finally:
            client.shutdown()

    def _new_state(self) -> states.State:
        made = states.State(self._caches.current())
        made.breaker = health.CircuitBreaker(
            self.store, lambda: self._check_cluster(made), self._on_up,
            addresses=lambda: monitors.parse(self._prober.settings.mon_host))
        return made

    def _complain(self, exc: errors.ClusterError) -> None:
        if str(exc) != self._complaint:
            self._complaint = str(exc)
            LOG.warning('The fsid of a cluster is not known: %s', exc)
