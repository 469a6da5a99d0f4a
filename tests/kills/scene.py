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


"""Where workers are killed: a Glance with slow stores, and its images."""

import contextlib
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time

import fixtures
from glanceclient import exc as client_exceptions
import rbd
import requests

from glance_dcn.imports import journal
from lab import glance
from lab import process
from tests.functional.api import base
from tests.kills import server

MiB = 1 << 20
STORES = ('central', 'dcn0')

_PLUGINS = {'dcn': '[dcn_distributed_staging,dcn_image_conversion]',
            'rbd': '[image_conversion]'}


class Scene(fixtures.Fixture):
    """A Glance of its own, whose stores take some seconds for an image.

    :ivar own: its :class:`tests.functional.api.base.OwnGlance`
    :ivar raw: the content of its images, bytes
    :ivar qcow2: an image with that content
    :ivar url: where to download that

    :param kind: type of the stores; ``rbd``: stock
    :param size: bytes of data in an image
    :param rate: bytes a second that a store takes
    :param download: seconds that a download takes
    :param overrides: further options of Glance
    :param program: class of the Glance
    :param database: URL of its database, with tables; None: one of its own
    """

    def __init__(self, kind='dcn', size=8 * MiB, rate=4 * MiB, download=1.5,
                 overrides=None, program=glance.Glance, database=None):
        super().__init__()
        self.kind = kind
        self._size = size
        self._rate = rate
        self._download = download
        self._overrides = overrides or {}
        self._program = program
        self._database = database

    def _setUp(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix='dcn-kills-'))
        self.addCleanup(subprocess.run, ['rm', '-rf', folder], check=True)
        # Data, a hole, and data.
        half = self._size // 2
        self.raw = os.urandom(half) + bytes(4 * MiB) + os.urandom(half)
        (folder / 'raw').write_bytes(self.raw)
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                        folder / 'raw', folder / 'qcow2'], check=True)
        self.qcow2 = (folder / 'qcow2').read_bytes()
        self.url = self.useFixture(
            server.SlowServer(self.qcow2, self._download)).url
        self.own = self.useFixture(base.OwnGlance(
            {site: (self.kind, self._store(site, folder))
             for site in STORES}, overrides=dict(
                 {'image_import_opts': {
                     'image_import_plugins': _PLUGINS[self.kind]}},
                 **self._overrides),
            kind=self._program, database=self._database))

    def _store(self, site, folder):
        cluster = base.lab().cluster(site)
        if self.kind == 'dcn':
            return glance.rbd_store(
                cluster, dcn_bandwidth_limit=self._rate / MiB,
                rbd_store_chunk_size=1)
        conf = folder / ('%s.conf' % site)
        # librbd itself keeps to it.
        conf.write_text('%s\n[client]\nrbd_qos_write_bps_limit = %d\n'
                        % (cluster.conf.read_text(), self._rate))
        return glance.rbd_store(cluster, rbd_store_ceph_conf=conf,
                                rbd_store_chunk_size=1)

    @property
    def api(self):
        """The :class:`tests.functional.api.client.Api` of the Glance."""
        return self.own.api

    @property
    def staging(self):
        """Path of the staging folder."""
        return self.own.worker.staging

    def phase(self, image_id):
        """Return the phase that the journal has of an image, or None."""
        for entry in journal.Journal(str(self.staging)).entries():
            if entry.image == image_id:
                return entry.phase
        return None

    def staged(self):
        """Return the names of the staged files."""
        return [path.name for path in self.own.worker.staged()]

    def kill(self, whole=True):
        """Kill the worker.

        :param whole: the master too; otherwise it starts another process
        """
        service = self.own.worker.service
        pids = service.worker_pids()
        if whole:
            pids = [service.pid, *pids]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self):
        """Start the worker again, and wait until it answers."""
        process.wait_for('port', lambda: process.is_free(
            self.own.worker.service.port), 20)
        self.own.start()

    def digest(self, content):
        """Return the hash that Glance has of a content."""
        return hashlib.sha512(content).hexdigest()

    def traces(self, image_id):
        """Return what there is of an image that nobody has any more."""
        found = ['staged file %s' % name for name in self.staged()
                 if image_id in name]
        found += ['journal'] if self.phase(image_id) else []
        for site in STORES:
            cluster = base.lab().cluster(site)
            if image_id in cluster.images():
                found.append('RBD image at %s' % site)
            if image_id in cluster.trash():
                found.append('trash at %s' % site)
        return found

    def content(self, site, image_id):
        """Return the hash of what a site has of an image."""
        with base.lab().cluster(site).pool() as ioctx, rbd.Image(
                ioctx, image_id, read_only=True) as image:
            image.set_snap('snap')
            return self.digest(image.read(0, image.size()))


class Job:
    """An import or a copy that is killed.

    :param scene: :class:`Scene`
    :param method: ``glance-direct``, ``web-download`` or ``copy-image``
    """

    def __init__(self, scene, method):
        self.scene = scene
        self.api = scene.api
        self.method = method
        copies = method == 'copy-image'
        self.targets = STORES[1:] if copies else STORES
        self.image_id = self.api.images.create(
            name='killed %s' % method, container_format='bare',
            disk_format='raw' if copies else 'qcow2')['id']
        if copies:
            self.api.upload(self.image_id, scene.raw, STORES[0])
        elif method == 'glance-direct':
            self.api.stage(self.image_id, scene.qcow2)

    def begin(self):
        """Begin it, or begin it anew."""
        self._import(self.method, self.targets)

    def complete(self):
        """Copy what is active to the stores that it did not come to."""
        self._import('copy-image', set(self.targets) - self.stores())

    def _import(self, method, stores):
        self.api.images.image_import(
            self.image_id, method, stores=list(stores),
            uri=self.scene.url if method == 'web-download' else None)

    def stores(self):
        """Return the set of the stores that have the image."""
        return set((self.image().get('stores') or '').split(','))

    def image(self):
        """Return the image as Glance shows it."""
        return self.api.images.get(self.image_id)

    def state(self):
        """Return what a user can do now.

        ``active``: nothing is left to do; ``importable``: begin it anew;
        ``partial``: copy it to the stores that miss it; None: none of these.
        """
        try:
            image = self.image()
            tasks = self.api.tasks(self.image_id).values()
        except (requests.RequestException, OSError,
                client_exceptions.CommunicationError):
            return None
        except Exception as exc:
            # glanceclient's own, such as 503 of a worker that just starts.
            if getattr(exc, 'code', 0) in (500, 502, 503):
                return None
            raise
        if (image.get('os_glance_import_task')
                or image.get('os_glance_importing_to_stores')
                or not {task['status'] for task in tasks}
                <= {'success', 'failure'}):
            return None
        there = set((image.get('stores') or '').split(','))
        if image['status'] == 'active':
            return ('active' if there >= set(self.targets)
                    else 'importable' if self.method == 'copy-image'
                    else 'partial')
        fitting = {'glance-direct': 'uploading', 'web-download': 'queued'}
        return ('importable' if image['status'] == fitting.get(self.method)
                else None)

    def usable(self, timeout):
        """Wait until a user can go on, and return what :meth:`state` says.

        None if it takes longer.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            state = self.state()
            if state:
                return state
            time.sleep(.1)
        return None

    def wrong(self):
        """Return what is wrong with the image that should be there now."""
        image = self.image()
        found = []
        expected = self.scene.digest(self.scene.raw)
        if image['os_hash_value'] != expected:
            found.append('wrong hash')
        if image['size'] != len(self.scene.raw):
            found.append('wrong size')
        for location in image['locations']:
            site = location['metadata']['store']
            if self.scene.content(site, self.image_id) != expected:
                found.append('wrong data at %s' % site)
        return found + self._staged()

    def _staged(self, timeout=5):
        """Return what is staged of it still.

        What it was converted from goes right after the import.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = ['staged file %s' % name for name in self.scene.staged()
                     if self.image_id in name]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(.1)

    def remove(self, timeout=60):
        """Delete the image; return what is left of it after some time."""
        self.api.request('DELETE', '/v2/images/%s' % self.image_id)
        deadline = time.monotonic() + timeout
        while True:
            traces = self.scene.traces(self.image_id)
            if not traces or time.monotonic() > deadline:
                return traces
            time.sleep(.5)
