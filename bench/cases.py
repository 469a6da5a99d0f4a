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

"""What is measured: one class for each kind of job.

Every job is prepared, carried out (which alone is timed), checked and taken
back.
"""

import dataclasses

from bench import api
from bench import references
from bench import stage as stages
from bench import verify
from lab import deployment
from lab import wan

SIDES = {'stock': 'stock Glance', 'ours': 'glance_dcn', 'hash': 'bare hashes',
         'qemu-img': 'qemu-img convert', 'rbd-diff': 'rbd export|import-diff',
         'tcp': 'plain TCP stream'}
GLANCES = ('stock', 'ours')
_CENTRAL = deployment.CENTRAL


@dataclasses.dataclass(frozen=True)
class Kind:
    """A case by its name.

    :param title: for the table
    :param job: ``import``, ``import-web``, ``copy`` or ``download``
    :param targets: number of sites it writes to
    :param source: ``main`` or ``small``: which image
    :param quality: :class:`lab.wan.Quality` of the link to the target, or
                    None when the targets are at this machine
    :param references: what else does the same job, for comparison
    """

    title: str
    job: str
    targets: int = 0
    source: str = 'main'
    quality: wan.Quality = None
    references: tuple = ()

    @property
    def sites(self):
        """Number of clusters at this machine that it needs."""
        if self.quality or self.job == 'download':
            return 1
        return self.targets + (self.job == 'copy')


NAMES = {
    'import-1': Kind('import qcow2 into 1 site', 'import', 1,
                     references=('hash', 'qemu-img')),
    'import-2': Kind('import qcow2 into 2 sites', 'import', 2,
                     references=('hash',)),
    'import-web-2': Kind('download and import qcow2 into 2 sites',
                         'import-web', 2, references=('hash',)),
    'import-3': Kind('import qcow2 into 3 sites', 'import', 3,
                     references=('hash',)),
    'import-small': Kind('import small image into 3 sites', 'import', 3,
                         source='small', references=('hash',)),
    'copy-1': Kind('copy to 1 site', 'copy', 1, references=('rbd-diff',)),
    'copy-3': Kind('copy to 3 sites', 'copy', 3),
    'copy-wan-50ms': Kind('copy over 50 ms RTT, 1 Gbit/s', 'copy', 1,
                          quality=wan.Quality(delay=25, rate=1000),
                          references=('tcp', 'rbd-diff')),
    'copy-wan-100ms': Kind('copy over 100 ms RTT, 100 Mbit/s', 'copy', 1,
                           quality=wan.Quality(delay=50, rate=100),
                           references=('tcp', 'rbd-diff')),
    'download': Kind('download from the store', 'download'),
}


class Bases:
    """The image that copies and downloads start from, one for each side.

    :param stage: :class:`bench.stage.Stage`
    :param source: :class:`bench.source.Source`
    :param url: URL of the folder with its files
    """

    def __init__(self, stage, source, url):
        self._stage = stage
        self._source = source
        self._url = url
        self._ids = {}

    def get(self, side):
        """Return the id of a side's image in the central site's store."""
        if side not in self._ids:
            client = self._stage.client(side)
            image = client.create('bench-base', 'qcow2')
            client.web_download(
                image, '%s/%s' % (self._url, self._source.qcow2.name),
                [_CENTRAL])
            self._ids[side] = image
        return self._ids[side]

    def leanest(self):
        """Return the id of the image that has the least besides its data."""
        for side in ('ours', 'stock'):
            if side in self._stage.sides:
                try:
                    return self.get(side)
                except api.JobFailed as exc:
                    failure = exc
                    self.begin_anew(side)
        raise failure

    def begin_anew(self, side):
        """Forget a side's image, and all that the side has."""
        self._ids.pop(side, None)
        self._stage.begin_anew(side, keep=set(self._ids.values()))

    def remove(self):
        """Delete all images that were made."""
        while self._ids:
            side, image = self._ids.popitem()
            self._stage.client(side).delete(image)


class Job:
    """What the jobs of a Glance have in common.

    :param bench: what there is: ``stage``, ``bases``, ``url``, ``sources``
    :param kind: :class:`Kind`
    :param side: ``stock`` or ``ours``
    """

    def __init__(self, bench, kind, side):
        self.bench = bench
        self.kind = kind
        self.side = side
        self.client = bench.stage.client(side)
        self.source = bench.sources[kind.source]
        self.targets = targets(bench.stage, kind)
        self.image = None

    def meter(self):
        """Return what measures CPU time and memory."""
        return self.bench.stage.meter(self.side)

    def check(self):
        """Compare what was stored with the source."""
        shown = self.client.show(self.image)
        verify.check_image(shown, self.source)
        for site in self.targets:
            verify.check_site(self.bench.stage, site, self.image,
                              self.source)


class Import(Job):
    """An import of a qcow2 that was uploaded before."""

    def prepare(self):
        """Upload the image."""
        self.image = self.client.create('bench-import', 'qcow2')
        self.client.stage(self.image, self.source.qcow2)

    def run(self):
        """From the import call until it is in all stores."""
        self.client.import_staged(self.image, self.targets)

    def clean(self):
        """Delete the image."""
        self.client.delete(self.image)


class ImportWeb(Import):
    """An import of a qcow2 that Glance first downloads."""

    def prepare(self):
        """Make an image without data: a name and an id."""
        self.image = self.client.create('bench-import', 'qcow2')

    def run(self):
        """From the import call until it is in all stores."""
        self.client.web_download(
            self.image, '%s/%s' % (self.bench.url, self.source.qcow2.name),
            self.targets)


class Copy(Job):
    """copy-image from the central site."""

    def prepare(self):
        """Have an image to copy."""
        self.image = self.bench.bases.get(self.side)

    def run(self):
        """From the import call until it is in all stores."""
        self.client.copy(self.image, self.targets)

    def clean(self):
        """Delete the copies."""
        for site in self.targets:
            self.client.delete_from(site, self.image)


class Download(Job):
    """Reading the image from its store through the API."""

    def prepare(self):
        """Have an image to read."""
        self.image = self.bench.bases.get(self.side)

    def run(self):
        """Read it to the end."""
        self.client.download(self.image)

    def check(self):
        """Read it again, and compare."""
        comparison = verify.Comparison(self.source)
        try:
            self.client.download(self.image, comparison)
        finally:
            comparison.close()

    def clean(self):
        """Do nothing: nothing was made."""


_JOBS = {'import': Import, 'import-web': ImportWeb, 'copy': Copy,
         'download': Download}


def job(bench, kind, side):
    """Return the job of a side in a case."""
    if side in GLANCES:
        return _JOBS[kind.job](bench, kind, side)
    return references.KINDS[side](bench, kind,
                                  bench.sources[kind.source],
                                  targets(bench.stage, kind))


def targets(stage, kind):
    """Return the names of the sites a case writes to."""
    if kind.quality:
        return [stages.WAN]
    first = 1 if kind.job == 'copy' else 0
    return stage.sites[first:first + kind.targets]
