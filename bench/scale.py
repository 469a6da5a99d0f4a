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


"""What many sites cost a Glance: ``python -m bench scale``. See README.rst.

Glances with ever more stores, ours and stock's in turn, on the same machine
and database server. Each is looked at while it idles, while and after it
copies an image to all of its stores, deletes it, and lists images that are at
all of them.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time
import typing
import uuid

import glanceclient
import requests
import sqlalchemy

from bench import growth
from bench import meters
from lab import deployment
from lab import glance
from lab import process
from lab import shared
from lab import wan

_MIB = 1 << 20
_KINDS = {'ours': 'dcn', 'stock': 'rbd'}
# Seconds after the start, and after a copy, at which what idles is looked at.
_SETTLED, _AFTERWARDS = 20, 70
# Seconds over which idle CPU time and operations are counted.
_WINDOW = 20
_LISTED = 100
_LISTINGS = 5
# How often what takes less is asked for.
_ASKED = 20


# Where control groups of the controller "pids" are, of version 1 and 2.
_PIDS = [pathlib.Path('/sys/fs/cgroup', name) for name in ('pids', '')]
_ENTER = ('import os, sys; open(sys.argv[1], "w").write(str(os.getpid())); '
          'os.execvp(sys.argv[2], sys.argv[2:])')


@dataclasses.dataclass
class Figures:
    """What a Glance with so many stores costs.

    What was not measured is None. Memory is in bytes, times are in seconds.

    :ivar side: ``ours`` or ``stock``
    :ivar stores: number of its stores
    :ivar start: until it answers
    :ivar idle: what the largest of its processes holds 20 s after that
    :ivar idle_cpu: share of a core that all of its processes take then
    :ivar operations: RADOS operations a second at other sites then
    :ivar copy: of an image to all other stores
    :ivar near: until it is in all of those that are not behind a link
    :ivar copied: number of those that the image then is in
    :ivar peak: what the largest process holds meanwhile, at most
    :ivar after: the same 70 s afterwards
    :ivar delete: until the deletion of that image is answered
    :ivar deleted: until no site has anything of it
    :ivar listing: of 100 images that are in all stores
    :ivar show: of one such image
    :ivar stores_detail: of the stores, with their properties
    :ivar errors: what failed
    """

    side: str
    stores: int
    start: float | None = None
    idle: meters.Holdings | None = None
    idle_cpu: float | None = None
    operations: float | None = None
    copy: float | None = None
    near: float | None = None
    copied: int | None = None
    peak: meters.Holdings | None = None
    after: meters.Holdings | None = None
    delete: float | None = None
    deleted: float | None = None
    listing: float | None = None
    show: float | None = None
    stores_detail: float | None = None
    errors: list[str] = dataclasses.field(default_factory=list)


class Sampler:
    """Look at what processes hold, ten times a second, in a thread.

    :ivar peak: the most of each
    :param pids: returns the process IDs
    """

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.peak = meters.Holdings(0, 0, 0, 0.0)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(.1):
            # One may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self.peak = self.peak.peak(largest(self._pids()))


def largest(pids: list[int]) -> meters.Holdings:
    """Return the most of each that one of several processes holds."""
    found = [meters.holdings([pid]) for pid in pids]
    peak = found[0]
    for one in found[1:]:
        peak = peak.peak(one)
    return peak


class Subject:
    """A Glance with some of the lab's stores.

    :param lab: :class:`lab.deployment.Deployment` of sites that share
        clusters, which is up
    :param side: ``ours`` or ``stock``
    :param stores: number of its stores, central's included
    :param overrides: options to add or change, by group
    :param processes: number of its processes, besides their master
    :param database: URL of an empty database; None: one is made in the lab's
    :param name: what it is called; None: by side and number of stores
    :param prefix: arguments of a program that starts it
    """

    def __init__(self, lab: deployment.Deployment, side: str, stores: int,
                 overrides: dict[str, dict[str, typing.Any]] | None = None,
                 processes: int = 1, database: str | None = None,
                 name: str | None = None, prefix: Sequence[str] = ()) -> None:
        self.lab = lab
        self.sites = lab.sites[:stores]
        name = name or '%s_%d' % (side, stores)
        if database is None:
            lab.database.make(name)
        self.database = database or lab.database.url(name)
        kind = _KINDS[side]
        options: dict[str, dict[str, typing.Any]] = collections.defaultdict(
            dict)
        if side == 'ours':
            options['image_import_opts']['image_import_plugins'] = (
                deployment.IMPORT_PLUGINS)
        for group, values in (overrides or {}).items():
            options[group].update(values)
        self.worker = glance.Glance(
            name, lab.state / 'subjects' / name, process.free_port(),
            lab.keystone, self.database,
            {site: (kind, lab.store(site, deployment.CENTRAL))
             for site in self.sites}, deployment.CENTRAL, options, processes,
            prefix=prefix)
        self._session = lab.keystone.session()
        self.images = glanceclient.Client(
            '2', session=self._session,
            endpoint_override=self.worker.url).images

    def start(self) -> float:
        """Start it, and return the seconds until it answered."""
        self.worker.sync_database()
        began = time.monotonic()
        self.worker.start()
        return time.monotonic() - began

    def pids(self) -> list[int]:
        """Return the IDs of the processes that answer requests."""
        return self.worker.service.worker_pids()

    def request(self, method: str, path: str,
                **kwargs: typing.Any) -> requests.Response:
        """Send a request and return the answer, whatever its status."""
        return requests.request(
            method, self.worker.url + path, timeout=600,
            headers={'X-Auth-Token': self._session.get_token()}, **kwargs)

    def upload(self, data: bytes) -> str:
        """Make an image of some data at central, and return its ID."""
        image = self.images.create(name='scale', disk_format='raw',
                                   container_format='bare')
        self.images.upload(image['id'], io.BytesIO(data),
                           backend=deployment.CENTRAL)
        return image['id']

    def copy(self, image_id: str, timeout: float = 1800,
             see: Callable[[set[str]], None] = lambda stores: None
             ) -> set[str]:
        """Copy an image to all other stores, and wait until that is over.

        :param timeout: seconds
        :param see: called now and then with the stores that it is in
        :returns: names of the other stores that the image is in then
        :raises lab.process.LabError: if it is refused, or takes longer
        """
        answer = self.request(
            'POST', '/v2/images/%s/import' % image_id, json={
                'method': {'name': 'copy-image'}, 'stores': self.sites[1:],
                'all_stores_must_succeed': False})
        if answer.status_code != 202:
            raise process.LabError('copy: %d %s' % (answer.status_code,
                                                    answer.text[:300]))

        def ended() -> bool:
            tasks = self.request('GET', '/v2/images/%s/tasks' % image_id)
            image = self.images.get(image_id)
            see(set(image.get('stores', '').split(',')))
            return ({task['status'] for task in tasks.json()['tasks']}
                    <= {'success', 'failure'}
                    and not image.get('os_glance_importing_to_stores'))
        process.wait_for('the copy', ended, timeout, interval=.5)
        return set(self.images.get(image_id).get('stores', '').split(',')
                   ) - {deployment.CENTRAL, ''}

    def message(self, image_id: str) -> str:
        """Return what the last task of an image says."""
        tasks = self.request('GET', '/v2/images/%s/tasks' % image_id)
        found = sorted(tasks.json()['tasks'],
                       key=lambda task: task['updated_at'])
        return found[-1]['message'] if found else ''

    def left(self, image_id: str) -> list[str]:
        """Return the sites that have something of an image."""
        found = shared.images_at(map(self.lab.cluster, self.sites))
        return [site for site, names in found.items() if image_id in names]

    def operations(self) -> int:
        """Return how many operations other sites' OSDs have served."""
        return sum(meters.osd_counters(cluster)['operations']
                   for cluster in self.lab.clusters()
                   if cluster.name != 'home')

    def record_images(self, count: int) -> None:
        """Have the database say that so many images are at all sites.

        There is nothing at the sites: to list images reads none.
        """
        ids = [str(uuid.uuid4()) for _ in range(count)]
        fsids = {site: self.lab.cluster(site).fsid for site in self.sites}
        rows = [{'image_id': image_id, 'value': 'rbd://%s/%s/%s/snap' % (
            fsids[site], self.lab.cluster(site).images_pool, image_id),
            'meta_data': json.dumps({'store': site})}
            for image_id in ids for site in self.sites]
        engine = sqlalchemy.create_engine(self.database)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(
                'INSERT INTO images (id, name, size, status, disk_format, '
                'container_format, visibility, min_disk, min_ram, protected, '
                "os_hidden, created_at, updated_at, deleted) VALUES (:id, "
                "'listed', 1048576, 'active', 'raw', 'bare', 'public', 0, 0, "
                '0, 0, NOW(), NOW(), 0)'), [{'id': one} for one in ids])
            connection.execute(sqlalchemy.text(
                'INSERT INTO image_locations (image_id, value, meta_data, '
                'status, created_at, updated_at, deleted) VALUES (:image_id, '
                ":value, :meta_data, 'active', NOW(), NOW(), 0)"), rows)
        engine.dispose()

    def seconds(self, path: str) -> float:
        """Return the seconds that a GET request takes.

        :raises lab.process.LabError: if it is refused
        """
        began = time.monotonic()
        answer = self.request('GET', path)
        seconds = time.monotonic() - began
        if answer.status_code != 200:
            raise process.LabError('GET %s: %d' % (path, answer.status_code))
        return seconds

    def listed(self) -> str:
        """Return the ID of an image that is recorded at all sites."""
        answer = self.request('GET', '/v2/images?name=listed&limit=1')
        return answer.json()['images'][0]['id']

    def list_seconds(self, limit: int = _LISTED) -> float:
        """Return the seconds that a list of images takes.

        :raises lab.process.LabError: if it is not of so many
        """
        began = time.monotonic()
        answer = self.request('GET', '/v2/images?name=listed&limit=%d' % limit)
        seconds = time.monotonic() - began
        found = answer.json()['images']
        if len(found) != limit or any(
                len(image['locations']) != len(self.sites)
                for image in found):
            raise process.LabError('%d images were listed' % len(found))
        return seconds


@contextlib.contextmanager
def noted(figures: Figures, what: str) -> Iterator[None]:
    """Note what fails in the block, and go on after it."""
    try:
        yield
    except (process.LabError, OSError, requests.RequestException,
            glanceclient.exc.ClientException, KeyError, ValueError) as exc:
        figures.errors.append('%s: %s' % (what, ' '.join(
            str(exc).split())[:500] or repr(exc)))


def measure(subject: Subject, figures: Figures, size: int, far: int,
            say: Callable[[str], None]) -> None:
    """Measure a Glance from its start to its end.

    :param far: how many of its sites, the last ones, are behind a link
    """
    near = set(subject.sites[:len(subject.sites) - far])
    figures.start = subject.start()
    time.sleep(_SETTLED)
    figures.idle = largest(subject.pids())
    before = meters.holdings(subject.pids()).cpu
    asked, began = subject.operations(), time.monotonic()
    time.sleep(_WINDOW)
    spent = time.monotonic() - began
    figures.operations = (subject.operations() - asked) / spent
    figures.idle_cpu = (meters.holdings(subject.pids()).cpu - before) / spent
    say('idle')
    with noted(figures, 'copy'):
        image_id = subject.upload(os.urandom(size))
        began = time.monotonic()

        def see(stores: set[str]) -> None:
            if figures.near is None and near <= stores:
                figures.near = time.monotonic() - began
        with Sampler(subject.pids) as sampler:
            there = subject.copy(image_id, see=see)
        figures.copy = time.monotonic() - began
        figures.peak, figures.copied = sampler.peak, len(there)
        if len(there) < len(subject.sites) - 1:
            raise process.LabError(subject.message(image_id))
    say('copied')
    time.sleep(_AFTERWARDS)
    figures.after = largest(subject.pids())
    with noted(figures, 'delete'):
        _measure_delete(subject, figures, image_id)
    say('deleted')
    with noted(figures, 'list'):
        subject.record_images(_LISTED)
        figures.listing = statistics.median(
            subject.list_seconds() for _ in range(_LISTINGS))
        figures.show = _median(subject, '/v2/images/' + subject.listed())
        figures.stores_detail = _median(subject, '/v2/info/stores/detail')
    say('listed')


def _median(subject: Subject, path: str) -> float:
    return statistics.median(subject.seconds(path) for _ in range(_ASKED))


def _measure_delete(subject: Subject, figures: Figures,
                    image_id: str) -> None:
    began = time.monotonic()
    answer = subject.request('DELETE', '/v2/images/%s' % image_id)
    figures.delete = time.monotonic() - began
    if answer.status_code != 204:
        raise process.LabError('%d %s' % (answer.status_code,
                                          answer.text[:300]))
    process.wait_for('nothing to be left', lambda: not subject.left(image_id),
                     600, interval=.5)
    figures.deleted = time.monotonic() - began


#: What the table has of each: heading, and its text.
COLUMNS: dict[str, Callable[[Figures], str]] = {
    'side': lambda one: one.side,
    'stores': lambda one: str(one.stores),
    'start s': lambda one: _number(one.start, '%.1f'),
    'idle': lambda one: _held(one.idle),
    'idle CPU': lambda one: _number(one.idle_cpu, '%.1%'),
    'ops/s': lambda one: _number(one.operations, '%.1f'),
    'copy s': lambda one: _number(one.copy, '%.1f'),
    'near s': lambda one: _number(one.near, '%.1f'),
    'copied': lambda one: _number(one.copied, '%d'),
    'peak': lambda one: _held(one.peak),
    '70 s after': lambda one: _held(one.after),
    'DELETE s': lambda one: _number(one.delete, '%.1f'),
    'gone s': lambda one: _number(one.deleted, '%.1f'),
    'list s': lambda one: _number(one.listing, '%.2f'),
    'show s': lambda one: _number(one.show, '%.3f'),
    'stores s': lambda one: _number(one.stores_detail, '%.3f'),
}


def table(rows: list[Figures]) -> str:
    """Return the table as text; what is held: threads, files, MiB."""
    lines = [list(COLUMNS)] + [
        [text(row) for text in COLUMNS.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = '\n'.join('  '.join(
        cell.rjust(width) for cell, width in zip(line, widths))
        for line in lines)
    return '\n'.join([text, 'idle, peak, after: threads/open files/MiB',
                      *('%s, %d stores: %s' % (row.side, row.stores, error)
                        for row in rows for error in row.errors)])


def _held(found: meters.Holdings | None) -> str:
    return '-' if found is None else '%d/%d/%d' % (
        found.threads, found.files, found.memory // _MIB)


def _number(value: float | None, form: str) -> str:
    if value is None:
        return '-'
    return '%.1f %%' % (100 * value) if form == '%.1%' else form % value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m bench scale', description='Measures what many stores '
        'cost a Glance, ours and stock. See bench/README.rst.')
    add = parser.add_argument
    add('--stores', default='3,60,200', help='numbers of stores to measure, '
        'separated by commas (default: %(default)s)')
    add('--sides', default=','.join(_KINDS),
        help='which Glances (default: %(default)s)')
    add('--far', type=int, default=0, metavar='N',
        help='have the last N sites behind a link; needs the rights of root')
    add('--delay', type=float, default=25, metavar='MS',
        help='of that link, one way (default: %(default)s)')
    add('--rate', type=float, default=0, metavar='MBIT',
        help='of that link; 0, the default: as fast as it goes')
    add('--size', type=int, default=8, metavar='MIB',
        help='of the image that is copied (default: %(default)s)')
    add('--processes', type=int, default=1,
        help='of each Glance (default: %(default)s)')
    add('--files', type=int, metavar='N',
        help='open files that each process may have (RLIMIT_NOFILE)')
    add('--threads', type=int, metavar='N', help='threads that all processes '
        'of a Glance may have together: pids.max of a control group, which '
        'needs the rights of root')
    add('--quota', type=int, metavar='N',
        help='image_location_quota (default: that of Glance)')
    add('--lab', type=pathlib.Path, help='use the lab in that folder, of '
        'sites that share clusters, and leave it up')
    add('--json', type=pathlib.Path, metavar='FILE',
        help='write all figures there')
    add('--svg', type=pathlib.Path, metavar='FILE',
        help='write the chart of growth there')
    return parser


@contextlib.contextmanager
def limited(files: int | None, threads: int | None) -> Iterator[list[str]]:
    """Give the arguments of a program that starts another within limits.

    :param files: that each of its processes may have open; None: no limit
    :param threads: that all of them may have; None: no limit
    :raises OSError: if no control group can be made
    """
    prefix = [] if files is None else ['prlimit', '--nofile=%d' % files]
    if threads is None:
        yield prefix
        return
    group = next(path for path in _PIDS if path.is_dir()) / (
        'dcn-scale-%s' % uuid.uuid4())
    group.mkdir()
    try:
        (group / 'pids.max').write_text(str(threads))
        yield [sys.executable, '-c', _ENTER, str(group / 'cgroup.procs'),
               *prefix]
    finally:
        group.rmdir()


@contextlib.contextmanager
def _lab(args: argparse.Namespace, sites: int,
         say: Callable[[str], None]) -> Iterator[deployment.Deployment]:
    """Bring the lab up, or take the one that was named."""
    if args.lab:
        yield deployment.Deployment(args.lab)
        return
    with tempfile.TemporaryDirectory(prefix='dcn-scale-') as folder:
        # It tells the time by itself.
        lab = deployment.Deployment(pathlib.Path(folder) / 'lab', print)
        lab.create(deployment.site_names(sites), database='mariadb',
                   shared=args.far)
        try:
            lab.up()
            yield lab
        finally:
            lab.down()


def run(args: argparse.Namespace, say: Callable[[str], None]
        ) -> list[Figures]:
    """Measure all that was asked for."""
    counts = [int(text) for text in args.stores.split(',')]
    rows = []
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(_lab(args, max(counts), say))
        if args.far:
            lab.clusters()[-1].link.set(wan.Quality(args.delay, args.rate))
        quota = ({} if args.quota is None else
                 {'DEFAULT': {'image_location_quota': args.quota}})
        prefix = stack.enter_context(limited(args.files, args.threads))
        for count in counts:
            for side in args.sides.split(','):
                rows.append(Figures(side, count))
                subject = Subject(lab, side, count, quota, args.processes,
                                  prefix=prefix)
                try:
                    measure(subject, rows[-1], args.size * _MIB, args.far,
                            lambda line, side=side, count=count: say(
                                '%s, %d stores: %s' % (side, count, line)))
                except (process.LabError, OSError) as exc:
                    rows[-1].errors.append(str(exc))
                finally:
                    subject.worker.stop()
                say('\n' + table(rows[-1:]))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_args: sys.exit(143))
    began = time.monotonic()
    try:
        rows = run(args, lambda line: print('%7.1f s  %s' % (
            time.monotonic() - began, line), flush=True))
    except (process.LabError, OSError) as exc:
        print('bench: %s' % exc, file=sys.stderr)
        return 1
    print('\n' + table(rows))
    if args.json:
        args.json.write_text(json.dumps(
            [dataclasses.asdict(row) for row in rows], indent=1) + '\n')
    if args.svg:
        args.svg.write_text(growth.draw(rows))
    return 1 if any(row.errors for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
