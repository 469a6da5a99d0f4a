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

"""What else does the same work: the yardsticks."""

import resource
import subprocess
import sys
import uuid

import rbd

from bench import api
from bench import meters
from bench import source as sources
from bench import stage as stages
from bench import stream
from bench import verify
from lab import deployment

_USER = 'openstack'


class Reference:
    """What they have in common.

    :param bench: what there is: ``stage``, ``bases``, ``url``, ``sources``
    :param kind: :class:`bench.cases.Kind`
    :param source: :class:`bench.source.Source`
    :param targets: names of sites
    """

    def __init__(self, bench, kind, source, targets):
        self.bench = bench
        self.kind = kind
        self.source = source
        self.targets = targets

    def meter(self):
        """Return what measures CPU time: that of the commands run."""
        return meters.Usage(resource.RUSAGE_CHILDREN)

    def prepare(self):
        """Do nothing."""

    def check(self):
        """Do nothing."""

    def clean(self):
        """Do nothing."""


class Hash(Reference):
    """md5 and sha512 of the raw image in two threads, and nothing else."""

    def meter(self):
        """Return what measures CPU time: that of this process."""
        return meters.Usage(resource.RUSAGE_SELF)

    def run(self):
        """Compute both."""
        sources.hashes(self.source)


class _IntoRBD(Reference):
    """Something that fills an RBD image at the first target."""

    def prepare(self):
        """Make an RBD image without data."""
        self.name = 'bench-%s' % uuid.uuid4()
        self.target = self.bench.stage.clusters[self.targets[0]]
        with self.target.pool('images') as ioctx:
            rbd.RBD().create(ioctx, self.name, self.source.size)

    def check(self):
        """Compare it with the source."""
        with self.target.pool('images') as ioctx:
            with rbd.Image(ioctx, self.name) as image:
                if 'snap' not in [snap['name']
                                  for snap in image.list_snaps()]:
                    image.create_snap('snap')
        verify.check_site(self.bench.stage, self.targets[0], self.name,
                          self.source)

    def clean(self):
        """Remove it."""
        stages.remove_image(self.target, self.name)


class QemuImg(_IntoRBD):
    """qemu-img convert, as fast as it goes."""

    def run(self):
        """Convert the qcow2 straight into the pool."""
        convert = _start([
            'qemu-img', 'convert', '-n', '--target-is-zero', '-m', '16', '-W',
            '-f', 'qcow2', '-O', 'raw', self.source.qcow2,
            'rbd:images/%s:id=%s:conf=%s' % (self.name, _USER,
                                             self.target.conf)])
        _finish([convert], self.bench.stage.timeout)


class RBDDiff(_IntoRBD):
    """rbd export-diff into rbd import-diff through a pipe."""

    def prepare(self):
        """Have an image to copy, and an RBD image to copy it into."""
        self.image = self.bench.bases.leanest()
        super().prepare()

    def run(self):
        """Let both work until the end."""
        origin = self.bench.stage.clusters[deployment.CENTRAL]
        sender = _start([*_rbd(origin), 'export-diff',
                         'images/%s@snap' % self.image, '-'],
                        stdout=subprocess.PIPE)
        receiver = _start([*_rbd(self.target), 'import-diff', '-',
                           'images/%s' % self.name], stdin=sender.stdout)
        sender.stdout.close()
        _finish([sender, receiver], self.bench.stage.timeout)


class Stream(Reference):
    """As many bytes as the image has data, over one TCP connection."""

    def meter(self):
        """Return what measures CPU time: that of the sending end."""
        return meters.Usage(resource.RUSAGE_SELF)

    def prepare(self):
        """Start a process at the far end that reads and counts."""
        link = self.bench.stage.link
        self._sink = _start(link.command(
            [sys.executable, stream.__file__, link.far]),
            stdout=subprocess.PIPE)
        self._port = int(self._sink.stdout.readline())

    def run(self):
        """Send, until the far end has it all."""
        stream.send(self.bench.stage.link.far, self._port, self.source.data)

    def clean(self):
        """End the far end."""
        self._sink.kill()
        self._sink.communicate()


KINDS = {'hash': Hash, 'qemu-img': QemuImg, 'rbd-diff': RBDDiff,
         'tcp': Stream}


def _rbd(cluster):
    return ['rbd', '--conf', cluster.conf, '--id', _USER, '--no-progress']


def _start(argv, **pipes):
    return subprocess.Popen([str(arg) for arg in argv],
                            stderr=subprocess.PIPE, **pipes)


def _finish(processes, timeout):
    """Wait for the end of commands.

    :param timeout: seconds
    :raises JobFailed: when one has failed or takes longer
    """
    failed = []
    try:
        # From the last one backwards: it ends when those before it do.
        for process in reversed(processes):
            process.stdout = None
            _nothing, message = process.communicate(timeout=timeout)
            if process.returncode:
                failed.append('%s ended with %d: %s' % (
                    process.args[0], process.returncode,
                    message.decode(errors='replace').strip()[-300:]))
    except subprocess.TimeoutExpired as exc:
        raise api.JobFailed('%s did not end within %d s'
                            % (exc.cmd[0], timeout)) from exc
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if failed:
        raise api.JobFailed('; '.join(failed))
