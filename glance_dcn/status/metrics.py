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

"""The figures of a deployment for Prometheus."""

from __future__ import annotations

import socket
import socketserver
import threading
import typing
from wsgiref import simple_server

import prometheus_client
from prometheus_client import core

from glance_dcn.ceph import health
from glance_dcn.ceph import record_format
from glance_dcn.sites import figures
from glance_dcn.status import poll
from glance_dcn.status import snapshot as snapshots
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable

_ACTIONS = [action.value for action in tasks.Action]
# Workers that are shown at most, and characters of a host's name.
_WORKERS, _HOST = 500, 64


class Metric(typing.NamedTuple):
    """What Prometheus is told of a metric.

    :ivar kind: ``gauge``, or ``counter``, which goes up only, but for when it
        begins again at 0
    """

    kind: str
    text: str
    labels: tuple[str, ...] = ()


def _gauge(text: str, *labels: str) -> Metric:
    return Metric('gauge', text, labels)


def _counter(text: str, *labels: str) -> Metric:
    return Metric('counter', text, labels)


#: By name. Each label has few values: sites, workers, states and reasons, and
#: never images.
METRICS = {
    'glance_dcn_site_up': _gauge(
        'Whether the cluster of the site serves I/O, and Glance uses it',
        'site'),
    'glance_dcn_site_info': _gauge(
        'State and fsid of the site; always 1', 'site', 'state', 'fsid'),
    'glance_dcn_site_round_trip_seconds': _gauge(
        'Seconds that the smallest question to the site takes', 'site'),
    'glance_dcn_site_size_bytes': _gauge(
        'Bytes that the cluster of the site has', 'site'),
    'glance_dcn_site_free_bytes': _gauge(
        'Bytes that are free in the cluster of the site', 'site'),
    'glance_dcn_site_tasks': _gauge(
        'Deferred tasks for the site', 'site', 'action'),
    'glance_dcn_site_oldest_task_age_seconds': _gauge(
        'Seconds since the oldest of these tasks was recorded; 0: there is '
        'none', 'site', 'action'),
    'glance_dcn_site_images': _gauge(
        'Active images by how they are at the site', 'site', 'state'),
    'glance_dcn_site_images_bytes': _gauge(
        'Virtual bytes of the images that the site has', 'site'),
    'glance_dcn_site_read_bytes_total': _counter(
        'Bytes of images that the worker has read from the site',
        'worker', 'site'),
    'glance_dcn_site_written_bytes_total': _counter(
        'Bytes of images that the worker has written to the site',
        'worker', 'site'),
    'glance_dcn_site_transfers_total': _counter(
        'Uploads, downloads and waves of copies that have begun at the site',
        'worker', 'site'),
    'glance_dcn_site_retries_total': _counter(
        'Further attempts after the site failed: reading from another site, '
        'writing from the beginning, a task', 'worker', 'site', 'operation'),
    'glance_dcn_site_errors_total': _counter(
        'What failed at the site', 'worker', 'site', 'reason'),
    'glance_dcn_site_slots_used': _gauge(
        'Slots of the site that transfers of the worker have',
        'worker', 'site'),
    'glance_dcn_site_slots_awaited': _gauge(
        'Transfers of the worker that wait for a slot of the site',
        'worker', 'site'),
    'glance_dcn_worker_heartbeats_total': _counter(
        'Heartbeats that the leader of the worker has written',
        'worker', 'host'),
    'glance_dcn_task_runner_heartbeats_total': _counter(
        'Renewals of the lease of the process that runs deferred tasks'),
    'glance_dcn_stray_images': _gauge(
        'Active images in a store that this Glance had, and has no more',
        'store'),
    'glance_dcn_images': _gauge('Images by their status', 'status'),
    'glance_dcn_images_bytes': _gauge(
        'Virtual bytes of all images, each counted once'),
    'glance_dcn_transfers': _gauge('Imports and copies that go on'),
    'glance_dcn_collection_duration_seconds': _gauge(
        'Seconds that it took to find all this out'),
    'glance_dcn_collection_timestamp_seconds': _gauge(
        'When it was found out, in seconds since the epoch'),
}
_FAMILIES = {'gauge': core.GaugeMetricFamily,
             'counter': core.CounterMetricFamily}


class Collector:
    """Gives the figures of a snapshot."""

    def __init__(self, snapshot: snapshots.Snapshot) -> None:
        self._families = {
            name: _FAMILIES[one.kind](name, one.text, labels=one.labels)
            for name, one in METRICS.items()}
        for site in snapshot.sites:
            self._add_site(site, snapshot)
        if snapshot.work is not None:
            self._add_work(snapshot.work,
                           {site.name for site in snapshot.sites})
        self._add_all(snapshot)

    def collect(self) -> list[core.Metric]:
        """Return the families of metrics."""
        return list(self._families.values())

    def _set(self, name: str, value: float | None, *labels: str) -> None:
        if value is not None:
            self._families['glance_dcn_' + name].add_metric(labels, value)

    def _add_site(self, site: poll.SiteStatus,
                  snapshot: snapshots.Snapshot) -> None:
        name = site.name
        self._set('site_up', int(site.state == health.UP), name)
        self._set('site_info', 1, name, site.state, site.fsid or '')
        self._set('site_round_trip_seconds', site.round_trip, name)
        self._set('site_size_bytes', site.total, name)
        self._set('site_free_bytes', site.free, name)
        if site.tasks is not None:
            for action in _ACTIONS:
                self._set('site_tasks', site.tasks.get(action, 0), name,
                          action)
                self._set('site_oldest_task_age_seconds', max(
                    0, snapshot.taken - site.oldest.get(
                        action, snapshot.taken)), name, action)
            self._set('site_tasks', site.unreadable, name,
                      'unreadable')
        for state, number in snapshot.counts(site).items():
            self._set('site_images', number, name, state)
        self._set('site_images_bytes', snapshot.stored(site), name)

    def _add_work(self, work: poll.Work, sites: set[str]) -> None:
        """Add the figures of workers, for the sites that are known."""
        self._set('task_runner_heartbeats_total', work.runner_beat)
        for worker in work.workers[:_WORKERS]:
            self._set('worker_heartbeats_total', worker.beat, worker.identity,
                      record_format.printable(worker.host, _HOST))
            for one in work.figures.get(worker.identity, ()):
                if one.site in sites:
                    self._add_figures(one, worker.identity, one.site)

    def _add_figures(self, one: figures.Figures, *labels: str) -> None:
        for name, key in (('read_bytes', figures.READ),
                          ('written_bytes', figures.WRITTEN),
                          ('transfers', figures.TRANSFERS)):
            self._set('site_%s_total' % name, one.of(key), *labels)
        for operation in figures.Operation:
            self._set('site_retries_total', one.of(
                figures.RETRIES + operation.value), *labels, operation.value)
        # All of them: the increase of one that was not there is not seen.
        for reason in figures.Reason:
            self._set('site_errors_total', one.of(
                figures.ERRORS + reason.value), *labels, reason.value)
        self._set('site_slots_used', one.used, *labels)
        self._set('site_slots_awaited', one.awaited, *labels)

    def _add_all(self, snapshot: snapshots.Snapshot) -> None:
        for status, number in snapshot.totals.images.items():
            self._set('images', number, status)
        for store, number in snapshot.strays.items():
            self._set('stray_images', number, store)
        self._set('images_bytes', snapshot.totals.data)
        self._set('transfers', len(snapshot.transfers))
        self._set('collection_duration_seconds', snapshot.seconds)
        self._set('collection_timestamp_seconds', snapshot.taken)


def registry_of(snapshot: snapshots.Snapshot
                ) -> prometheus_client.CollectorRegistry:
    """Return a prometheus_client registry with the figures of a snapshot."""
    result = prometheus_client.CollectorRegistry()
    result.register(Collector(snapshot))
    return result


def text(snapshot: snapshots.Snapshot) -> bytes:
    """Return the figures in Prometheus's text format, as bytes."""
    return prometheus_client.generate_latest(registry_of(snapshot))


def write(snapshot: snapshots.Snapshot, path: str) -> None:
    """Write the figures to a file ``*.prom``, replaced at once or not."""
    prometheus_client.write_to_textfile(path, registry_of(snapshot))


class Latest:
    """A collector of what was found last."""

    def __init__(self) -> None:
        self._collector: Collector | None = None
        self.reason: str | None = 'nothing has been looked at yet'

    def update(self, snapshot: snapshots.Snapshot) -> None:
        """Take another snapshot."""
        self._collector, self.reason = Collector(snapshot), None

    def fail(self, reason: str) -> None:
        """Give no figures until the next snapshot: they would not be true."""
        self._collector, self.reason = None, reason

    def collect(self) -> list[core.Metric]:
        """Return the families of metrics."""
        collector = self._collector
        return collector.collect() if collector else []


class _Handler(simple_server.WSGIRequestHandler):

    def log_message(self, *args: typing.Any) -> None:
        """Log nothing: each scrape would be a line."""


def serve(latest: Latest, address: str, port: int) -> None:
    """Serve figures over HTTP, in a thread of its own.

    Without figures the answer is 503, so that the target is down for
    Prometheus; an answer without figures would look like a site that is gone.

    :raises OSError: if the address cannot be listened at
    """
    result = prometheus_client.CollectorRegistry()
    result.register(latest)
    exporter = prometheus_client.make_wsgi_app(result)

    def application(environ: dict[str, typing.Any],
                    start_response: Callable[..., typing.Any]
                    ) -> Iterable[bytes]:
        reason = latest.reason
        if reason is None:
            shown: Iterable[bytes] = exporter(environ, start_response)
            return shown
        start_response('503 Service Unavailable',
                       [('Content-Type', 'text/plain; charset=utf-8')])
        return [('%s\n' % reason).encode()]

    class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
        daemon_threads = True
        address_family = (socket.AF_INET6 if ':' in address
                          else socket.AF_INET)

    server = simple_server.make_server(address, port, application, Server,
                                       _Handler)
    threading.Thread(target=server.serve_forever, name='metrics',
                     daemon=True).start()
