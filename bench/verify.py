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

"""Whether what was stored is what was given, at the cost of the data only."""

import json
import os
import pathlib
import sys

import rbd

from bench import api
from bench import source as sources
from lab import ceph
from lab import process

_STEP = 4 << 20


def check_site(stage, site, image_id, source):
    """Compare the image in a site's pool with its source, bit by bit.

    At a site behind a WAN link that is done there: it takes less time.

    :param stage: :class:`bench.stage.Stage`
    :param site: name of the site
    :param image_id: name of the RBD image, with a snapshot ``snap``
    :param source: :class:`bench.source.Source`
    :raises JobFailed: when they differ
    """
    cluster = stage.clusters[site]
    if not stage.is_far(site):
        check_store(cluster, image_id, source)
        return
    what = {'name': cluster.name, 'directory': str(cluster.directory),
            'etc': str(cluster.etc), 'image': image_id,
            'raw': str(source.raw), 'size': source.size,
            'extents': source.extents}
    try:
        process.run(stage.link.command([sys.executable, '-m',
                                        'bench.verify']),
                    input=json.dumps(what), timeout=1800, env={
                        'PYTHONPATH': os.pathsep.join(sys.path)})
    except process.LabError as exc:
        raise api.JobFailed(str(exc)) from exc


def check_store(cluster, image_id, source):
    """Compare the image in a cluster's pool with its source, bit by bit.

    Where the cluster has anything it must equal the source; where it has
    nothing, and so reads as zero, the source must have no data.

    :param cluster: :class:`lab.ceph.Cluster`
    :param image_id: name of the RBD image, with a snapshot ``snap``
    :param source: :class:`bench.source.Source`
    :raises JobFailed: when they differ
    """
    there = []

    def note(offset, length, exists):
        if exists:
            there.append((offset, length))

    with cluster.pool('images') as ioctx:
        with rbd.Image(ioctx, image_id, read_only=True) as image:
            image.set_snap('snap')
            if image.size() != source.size:
                raise api.JobFailed('%s: %d bytes instead of %d' % (
                    cluster.name, image.size(), source.size))
            image.diff_iterate(0, source.size, None, note)
            hole = first_uncovered(source.extents, there)
            if hole is not None:
                raise api.JobFailed('%s: no data at %d'
                                    % (cluster.name, hole))
            _compare(image, there, source, cluster.name)


def check_image(image, source):
    """Compare what Glance says of an image with its source.

    :param image: its properties, as a dict
    :raises JobFailed: when they differ
    """
    for key, wanted in (('size', source.size),
                        ('checksum', source.checksum),
                        ('os_hash_value', source.hash_value)):
        if image[key] != wanted:
            raise api.JobFailed('%s is %s instead of %s'
                                % (key, image[key], wanted))


class Comparison:
    """A sink for a download that compares it with the source."""

    def __init__(self, source):
        self._raw = source.raw.open('rb', buffering=0)
        self._at = 0

    def __call__(self, piece):
        wanted = os.pread(self._raw.fileno(), len(piece), self._at)
        if bytes(piece) != wanted:
            raise api.JobFailed('download: wrong data behind %d' % self._at)
        self._at += len(piece)

    def close(self):
        """Close the source."""
        self._raw.close()


def first_uncovered(wanted, covering):
    """Return the first offset in ``wanted`` that no extent covers, or None.

    :param wanted: ordered list of (offset, length)
    :param covering: ordered list of (offset, length), not overlapping
    """
    covering = iter(covering)
    start = end = 0
    for offset, length in wanted:
        at = offset
        while at < offset + length:
            while end <= at:
                start, more = next(covering, (None, 0))
                if start is None:
                    return at
                end = start + more
            if start > at:
                return at
            at = end
    return None


def _compare(image, there, source, name):
    with source.raw.open('rb', buffering=0) as raw:
        for offset, length in there:
            for at in range(offset, offset + length, _STEP):
                size = min(_STEP, offset + length - at)
                if image.read(at, size) != os.pread(raw.fileno(), size, at):
                    raise api.JobFailed('%s: wrong data between %d and %d'
                                        % (name, at, at + size))


def _main():
    """Do at a site what :func:`check_site` asks on standard input."""
    what = json.load(sys.stdin)
    source = sources.Source(pathlib.Path(what['raw']), None, what['size'],
                            [tuple(extent) for extent in what['extents']])
    cluster = ceph.Cluster(what['name'], what['directory'], what['etc'])
    try:
        check_store(cluster, what['image'], source)
    except (api.JobFailed, rbd.Error) as exc:
        sys.exit(str(exc))


if __name__ == '__main__':
    _main()
