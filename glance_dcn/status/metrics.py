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
from glance_dcn.status import poll
from glance_dcn.status import snapshot as snapshots
from glance_dcn.tasks import task as tasks

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable

_ACTIONS = [action.value for action in tasks.Action]

#: Help and labels of each metric, by its name.
METRICS = {
    'glance_dcn_site_up':
        ('Whether the cluster of the site serves I/O, and Glance uses it',
         ('site',)),
    'glance_dcn_site_info':
        ('State and fsid of the site; always 1', ('site', 'state', 'fsid')),
    'glance_dcn_site_round_trip_seconds':
        ('Seconds that the smallest question to the site takes', ('site',)),
    'glance_dcn_site_size_bytes':
        ('Bytes that the cluster of the site has', ('site',)),
    'glance_dcn_site_free_bytes':
        ('Bytes that are free in the cluster of the site', ('site',)),
    'glance_dcn_site_tasks':
        ('Deferred tasks for the site', ('site', 'action')),
    'glance_dcn_site_images':
        ('Active images by how they are at the site', ('site', 'state')),
    'glance_dcn_site_images_bytes':
        ('Virtual bytes of the images that the site has', ('site',)),
    'glance_dcn_stray_images':
        ('Active images in a store that this Glance had, and has no more',
         ('store',)),
    'glance_dcn_images':
        ('Images by their status', ('status',)),
    'glance_dcn_images_bytes':
        ('Virtual bytes of all images, each counted once', ()),
    'glance_dcn_transfers':
        ('Imports and copies that go on', ()),
    'glance_dcn_collection_duration_seconds':
        ('Seconds that it took to find all this out', ()),
    'glance_dcn_collection_timestamp_seconds':
        ('When it was found out, in seconds since the epoch', ()),
}


class Collector:
    """Gives the figures of a snapshot."""

    def __init__(self, snapshot: snapshots.Snapshot) -> None:
        self._families = {
            name: core.GaugeMetricFamily(name, text, labels=labels)
            for name, (text, labels) in METRICS.items()}
        for site in snapshot.sites:
            self._add_site(site, snapshot)
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
        for state, number in snapshot.counts(site).items():
            self._set('site_images', number, name, state)
        self._set('site_images_bytes', snapshot.stored(site), name)

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
    figures = prometheus_client.make_wsgi_app(result)

    def application(environ: dict[str, typing.Any],
                    start_response: Callable[..., typing.Any]
                    ) -> Iterable[bytes]:
        reason = latest.reason
        if reason is None:
            shown: Iterable[bytes] = figures(environ, start_response)
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
