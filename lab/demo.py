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

"""The main job of a DCN deployment, shown step by step on a real one.

Brings up three sites and lets stock command-line clients do what users do:
import an image to several sites, copy it to another, clone and boot it there,
take a snapshot home, delete. Each step shows its commands and is checked; the
table at the end tells how each came out.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import os
import pathlib
import pty
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import rbd

from lab.bootimage import builder
from lab.bootimage import errors
from lab.bootimage import guest
from lab import deployment
from lab import process
from lab import wsgi

_IMPORT_TIMEOUT = 240
_MIB = 1 << 20


class StepFailed(Exception):
    """Something is not as it should be."""


@dataclasses.dataclass
class Row:
    """What became of a step."""

    number: int
    title: str
    seconds: float = 0.0
    outcome: str = 'not run'


class Demo:
    """The demo on one deployment.

    :param lab: :class:`lab.deployment.Deployment` that is up
    :param work: folder for files of the demo
    :param image: path of a bootable qcow2
    :param marker: text its console shows when it has booted
    """

    def __init__(self, lab, work, image, marker):
        self.lab = lab
        self.work = pathlib.Path(work)
        self.image = pathlib.Path(image)
        self.marker = marker
        self.name = 'demo-%s' % uuid.uuid4().hex[:8]
        self.image_id = None
        self.snapshot_id = str(uuid.uuid4())
        self.small_id = None
        self.vm = '%s_disk' % uuid.uuid4()
        self.edge_vm = '%s_disk' % uuid.uuid4()
        self.volume = 'volume-%s' % uuid.uuid4()
        self._env = dict(os.environ, **lab.environment())
        self._env['PATH'] = '%s:%s' % (wsgi.BIN, os.environ['PATH'])

    def run(self):
        """Run all steps.

        :returns: list of :class:`Row`
        """
        steps = [self.list_stores, self.import_to_two_sites,
                 self.copy_to_third_site, self.show_locations,
                 self.clone_copy_on_write, self.boot_at_the_edge,
                 self.snapshot_at_the_edge, self.read_from_central,
                 self.delete]
        rows = [Row(number, step.__doc__.splitlines()[0].rstrip('.'))
                for number, step in enumerate(steps, 1)]
        for row, step in zip(rows, steps):
            print('\n=== %d. %s' % (row.number, row.title), flush=True)
            started = time.monotonic()
            try:
                step()
                row.outcome = 'ok'
            except (StepFailed, process.LabError, errors.BootImageError,
                    rbd.Error) as exc:
                row.outcome = 'FAILED: %s' % exc
                print(row.outcome)
            row.seconds = time.monotonic() - started
            if row.outcome != 'ok':
                break
        return rows

    def list_stores(self):
        """List the stores."""
        print(self._glance('stores-info'))
        detail = self._openstack('image', 'stores', 'list', '--detail')
        fsids = {store['ID']: store['Properties']['fsid'] for store in detail}
        expected = {site: self.lab.cluster(site).fsid
                    for site in self.lab.sites}
        _expect(fsids == expected, 'the stores are %s' % fsids)

    def import_to_two_sites(self):
        """Import a qcow2 into central and dcn0 in one command."""
        with _served(self.image) as url:
            self._glance(
                'image-create-via-import', '--disk-format', 'qcow2',
                '--container-format', 'bare', '--name', self.name,
                '--uri', url, '--import-method', 'web-download',
                '--stores', 'central,dcn0')
            found = self._openstack('image', 'list', '--name', self.name)
            self.image_id = found[0]['ID']
            image = self._wait_for_stores(self.image_id, 'central', 'dcn0')
        _expect(image['disk_format'] == 'raw',
                'the image is stored as %s' % image['disk_format'])
        _expect(image['id'] == self.image_id, 'the UUID changed')

    def copy_to_third_site(self):
        """Copy the image to dcn1."""
        self._copy(self.image_id, 'dcn1')

    def show_locations(self):
        """One UUID, three locations, a protected snapshot in each pool."""
        image = self._show(self.image_id)
        uris = [loc['url'] for loc in image['properties']['locations']]
        print('\n'.join('  ' + uri for uri in uris))
        expected = {'rbd://%s/images/%s/snap' % (self.lab.cluster(site).fsid,
                                                 self.image_id)
                    for site in self.lab.sites}
        _expect(set(uris) == expected, 'the locations are %s' % uris)
        for site in self.lab.sites:
            print(self._rbd(site, 'ls', '-l', 'images'))
            with self._opened(site, 'images', self.image_id) as image:
                _expect(image.is_protected_snap('snap'),
                        'no protected snapshot at %s' % site)
        self._same_content(self.image_id, self.lab.sites)

    def clone_copy_on_write(self):
        """Clone it copy-on-write, as Nova does at dcn1 and Cinder at dcn0."""
        parent = 'images/%s@snap' % self.image_id
        self._rbd('dcn1', 'clone', parent, 'vms/%s' % self.vm)
        # Clones of format 2 need no protected parent: deleting the image
        # moves it to the trash while they remain.
        self._rbd('dcn0', 'clone', '--rbd-default-clone-format', '2', parent,
                  'volumes/%s' % self.volume)
        print(self._rbd('dcn1', 'ls', '-l', 'vms'))
        print(self._rbd('dcn0', 'ls', '-l', 'volumes'))
        for site, pool, name in (('dcn1', 'vms', self.vm),
                                 ('dcn0', 'volumes', self.volume)):
            with self._opened(site, pool, name) as image:
                found = image.parent_info()
            _expect(tuple(found) == ('images', self.image_id, 'snap'),
                    'the parent of %s is %s' % (name, found))

    def boot_at_the_edge(self):
        """Boot the clone at dcn1 straight from RBD."""
        drive = guest.rbd_drive('vms', self.vm,
                                str(self.lab.cluster('dcn1').conf),
                                user='openstack')
        result = guest.boot(
            drive, marker=self.marker, timeout=240,
            log_path=self.work / 'console.log',
            on_line=_show_console)
        print('  booted in %.1f s' % result.seconds)

    def snapshot_at_the_edge(self):
        """Snapshot a disk at dcn0 into a new image, take it to all sites."""
        image, new = self.image_id, self.snapshot_id
        disk, snap = 'vms/%s' % self.edge_vm, str(uuid.uuid4())
        self._rbd('dcn0', 'clone', 'images/%s@snap' % image, disk)
        with self._opened('dcn0', 'vms', self.edge_vm, write=True) as opened:
            opened.write(self.name.encode(), opened.size() - 512)
        # What nova.virt.libvirt.imagebackend.Rbd.direct_snapshot() does.
        self._rbd('dcn0', 'snap', 'create', '%s@%s' % (disk, snap))
        self._rbd('dcn0', 'snap', 'protect', '%s@%s' % (disk, snap))
        self._rbd('dcn0', 'clone', '%s@%s' % (disk, snap), 'images/%s' % new)
        self._rbd('dcn0', 'flatten', '--no-progress', 'images/%s' % new)
        self._rbd('dcn0', 'snap', 'unprotect', '%s@%s' % (disk, snap))
        self._rbd('dcn0', 'snap', 'rm', '--no-progress',
                  '%s@%s' % (disk, snap))
        self._rbd('dcn0', 'snap', 'create', 'images/%s@snap' % new)
        self._rbd('dcn0', 'snap', 'protect', 'images/%s@snap' % new)
        self._client('openstack', 'image', 'create', '--id', new,
                     '--disk-format', 'raw', '--container-format', 'bare',
                     self.name + '-snapshot', region='dcn0')
        self._client('glance', 'location-add', new, '--url',
                     'rbd://%s/images/%s/snap'
                     % (self.lab.cluster('dcn0').fsid, new),
                     '--metadata', json.dumps({'store': 'dcn0'}),
                     region='dcn0')
        self._wait_for_stores(new, 'dcn0')
        self._copy(new, 'central')
        self._copy(new, 'dcn1')
        digest = self._same_content(new, self.lab.sites)
        _expect(digest != self._content(image, 'dcn0'),
                'the snapshot has not what the edge disk has')

    def read_from_central(self):
        """Read through dcn1's Glance an image that only central has."""
        data = self.work / 'small.raw'
        data.write_bytes(os.urandom(3 * _MIB + 17))
        with _served(data) as url:
            self._glance(
                'image-create-via-import', '--disk-format', 'raw',
                '--container-format', 'bare', '--name', self.name + '-small',
                '--uri', url, '--import-method', 'web-download',
                '--stores', 'central')
            self.small_id = self._openstack(
                'image', 'list', '--name', self.name + '-small')[0]['ID']
            self._wait_for_stores(self.small_id, 'central')
        saved = self.work / 'saved.raw'
        self._client('openstack', 'image', 'save', '--file', str(saved),
                     self.small_id, region='dcn1')
        _expect(saved.read_bytes() == data.read_bytes(),
                'what dcn1 gave is not what was imported')

    def delete(self):
        """Delete from one store, then everywhere; a clone keeps its data."""
        self._glance('stores-delete', '--store', 'dcn1', self.snapshot_id)
        stores = self._show(self.snapshot_id)['properties']['stores']
        print('  the snapshot is still in: %s' % stores)
        _expect(set(stores.split(',')) == {'dcn0', 'central'},
                'the snapshot is in %s' % stores)
        _expect(self.snapshot_id not in self.lab.cluster('dcn1').images(),
                'the snapshot is still in the pool of dcn1')
        # Nova removes its disks; the volume at dcn0 stays.
        self._rbd('dcn1', 'rm', '--no-progress', 'vms/%s' % self.vm)
        self._rbd('dcn0', 'rm', '--no-progress', 'vms/%s' % self.edge_vm)
        ours = [self.image_id, self.snapshot_id, self.small_id]
        self._client('openstack', 'image', 'delete', *ours)
        for site in self.lab.sites:
            images, trash = (self.lab.cluster(site).images(),
                             self.lab.cluster(site).trash())
            print('  %s: images %s, trash %s' % (site, images, trash))
            _expect(not set(ours) & set(images),
                    'there are images left at %s' % site)
            kept = set(ours) & set(trash)
            _expect(kept == ({self.image_id} if site == 'dcn0' else set()),
                    'the trash of %s has %s' % (site, kept))
        print(self._rbd('dcn0', 'ls', '-l', 'volumes'))
        self._remove_last_clone()

    def _remove_last_clone(self):
        self._rbd('dcn0', 'rm', '--no-progress', 'volumes/%s' % self.volume)
        with self.lab.cluster('dcn0').pool('images') as ioctx:
            for entry in rbd.RBD().trash_list(ioctx):
                if entry['name'] == self.image_id:
                    rbd.RBD().trash_remove(ioctx, entry['id'], force=True)
        _expect(self.image_id not in self.lab.cluster('dcn0').trash(),
                'the trash of dcn0 is not empty')

    def _copy(self, image, store):
        self._glance('image-import', image, '--stores', store,
                     '--import-method', 'copy-image')
        self._wait_for_stores(image, store)

    def _wait_for_stores(self, image_id, *stores):
        """Wait until an image is active in stores, showing progress."""
        deadline = time.monotonic() + _IMPORT_TIMEOUT
        shown = None
        while time.monotonic() < deadline:
            image = self._show(image_id)
            properties = image['properties']
            now = (image['status'], properties.get('stores') or '-',
                   properties.get('os_glance_importing_to_stores') or '-')
            if now != shown:
                print('  image %s; in stores: %s; importing to: %s' % now,
                      flush=True)
                shown = now
            failed = properties.get('os_glance_failed_import')
            _expect(not failed, 'the import failed in %s' % failed)
            if (now[0] == 'active' and now[2] == '-'
                    and not properties.get('os_glance_import_task')
                    and set(stores) <= set(now[1].split(','))):
                return image
            time.sleep(0.5)
        raise StepFailed('image %s is not in %s within %d s' % (
            image_id, ','.join(stores), _IMPORT_TIMEOUT))

    def _same_content(self, name, sites):
        digests = {site: self._content(name, site) for site in sites}
        _expect(len(set(digests.values())) == 1,
                'the copies differ: %s' % digests)
        digest = digests[sites[0]]
        print('  sha512 at %s: %s…' % (', '.join(sites), digest[:32]))
        return digest

    def _content(self, name, site):
        digest = hashlib.sha512()
        with self._opened(site, 'images', name, snapshot='snap') as image:
            for offset in range(0, image.size(), 8 * _MIB):
                digest.update(image.read(
                    offset, min(8 * _MIB, image.size() - offset)))
        return digest.hexdigest()

    @contextlib.contextmanager
    def _opened(self, site, pool, name, snapshot=None, write=False):
        with self.lab.cluster(site).pool(pool) as ioctx:
            with rbd.Image(ioctx, name, read_only=not write) as image:
                # Not by rbd.Image(snapshot=), whose close may crash Ceph 16.
                if snapshot:
                    image.set_snap(snapshot)
                yield image

    def _show(self, image):
        return self._openstack('image', 'show', image, quiet=True)

    def _rbd(self, site, *arguments):
        return self._client('rbd', '--conf',
                            str(self.lab.cluster(site).conf), '--id',
                            'openstack', *arguments)

    def _glance(self, *arguments):
        return self._client('glance', *arguments)

    def _openstack(self, *arguments, quiet=False):
        return json.loads(self._client('openstack', *arguments, '-f', 'json',
                                       quiet=quiet))

    def _client(self, *argv, region=None, quiet=False):
        """Run a command as a user at a terminal would, and return its output.

        The glance client takes a standard input that is no terminal for
        image data.

        :param region: site whose Glance is asked, if not central's
        """
        env, shown = self._env, shlex.join(argv)
        if region:
            env = dict(env, OS_REGION_NAME=region)
            shown = 'OS_REGION_NAME=%s %s' % (region, shown)
        if not quiet:
            print('  $ %s' % shown, flush=True)
        leader, terminal = pty.openpty()
        try:
            done = subprocess.run(argv, env=env, stdin=terminal,
                                  capture_output=True, text=True,
                                  timeout=_IMPORT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise StepFailed('%s did not end' % argv[0])
        finally:
            os.close(leader)
            os.close(terminal)
        _expect(done.returncode == 0, '%s ended with %d: %s' % (
            argv[0], done.returncode, done.stderr.strip()[-500:]))
        return ''.join('  %s\n' % line
                       for line in done.stdout.splitlines()).rstrip('\n')


def _show_console(line):
    """Print a line of the console, without the kernel's own chatter."""
    if line.strip() and not line.startswith('['):
        print('  | %s' % line, flush=True)


def _expect(condition, message):
    if not condition:
        raise StepFailed(message)


@contextlib.contextmanager
def _served(path):
    """Serve a file over HTTP: context manager that gives its URL."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Handler,
                                            directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield 'http://127.0.0.1:%d/%s' % (server.server_port, path.name)
    finally:
        server.shutdown()
        server.server_close()


def show_table(rows):
    """Print the steps, their times and outcomes."""
    width = max(len(row.title) for row in rows)
    print('\n%2s  %-*s  %8s  %s' % ('', width, 'step', 'seconds', 'outcome'))
    for row in rows:
        print('%2d  %-*s  %8.1f  %s' % (row.number, width, row.title,
                                        row.seconds, row.outcome))


def _parse(argv):
    parser = argparse.ArgumentParser(prog='tools/run-demo.sh',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--image', type=pathlib.Path,
                        help='a bootable qcow2 to use (default: one built '
                             "from the distribution's kernel and busybox)")
    parser.add_argument('--marker', default=None,
                        help='text on its serial console that shows that it '
                             'has booted (default with --image: "login:")')
    parser.add_argument('--keep', action='store_true',
                        help='leave the deployment running at the end')
    parser.add_argument('--state', type=pathlib.Path,
                        default=pathlib.Path(tempfile.gettempdir())
                        / ('glance-dcn-demo-%d' % os.getuid()),
                        help='folder of the deployment (default: %(default)s)')
    args = parser.parse_args(argv)
    if args.image and not args.image.is_file():
        parser.error('there is no file %s' % args.image)
    return args


def main(argv=None):
    """Run the demo and return the exit code."""
    args = _parse(argv)
    started = time.monotonic()
    lab = deployment.Deployment(args.state,
                                report=lambda line: print(line, flush=True))
    rows = [Row(0, 'Bring up three sites')]
    try:
        lab.create(deployment.site_names(3))
        lab.up()
        rows[0].seconds = time.monotonic() - started
        rows[0].outcome = 'ok'
        with tempfile.TemporaryDirectory(prefix='glance-dcn-demo-') as work:
            image, marker = args.image, args.marker or 'login:'
            if not image:
                print('\nBuilding a bootable image', flush=True)
                image = pathlib.Path(work) / 'demo.qcow2'
                built = builder.build(image)
                marker = args.marker or built.marker
            rows += Demo(lab, work, image, marker).run()
    except (process.LabError, errors.BootImageError) as exc:
        rows[-1].outcome = 'FAILED: %s' % exc
    finally:
        if args.keep:
            print('\nThe deployment is kept:  . %s' % (lab.state / 'openrc'))
        elif lab.state.exists():
            lab.down(delete=True)
    show_table(rows)
    good = len(rows) > 1 and all(row.outcome == 'ok' for row in rows)
    print('\n%s in %.0f s' % ('Every step is ok' if good else 'NOT OK',
                              time.monotonic() - started))
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
