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

"""One Glance with many real clusters: started, copied to, deleted from, cut.

Each step ends, and what it leaves is looked at in every pool, not asked of
Glance. A cut cluster is one whose daemons are stopped, so that nothing that is
sent there is answered or refused.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import time
import typing

import glanceclient
import rbd

from lab import deployment
from lab import process

_MIB = 1 << 20
# Seconds within which a copy to clusters half of which are cut has ended,
# beyond what the copy to all of them took: that is how long a call may wait
# for a site that is gone.
_LOST = 15
# Seconds until nothing is left of a deleted image.
_LEFT = 60


@dataclasses.dataclass(frozen=True)
class Step:
    """What was done, and what came of it.

    :ivar what: as text
    :ivar seconds: how long it took
    :ivar wrong: what is not as it should be, as texts
    """

    what: str
    seconds: float
    wrong: tuple[str, ...] = ()


class Run:
    """The steps, each of which yields its :class:`Step`.

    :param lab: a deployment that is up, with one Glance at central
    :param size: bytes of the image
    """

    def __init__(self, lab: deployment.Deployment, size: int) -> None:
        self._lab = lab
        self._data = os.urandom(size)
        self._digest = hashlib.sha256(self._data).hexdigest()
        self._sites = list(lab.sites)
        self._edges = self._sites[1:]
        self._worker = lab.glance('central')
        self._images = glanceclient.Client(
            '2', session=lab.keystone.session(),
            endpoint_override=self._worker.url).images
        self._pool = concurrent.futures.ThreadPoolExecutor(16)

    def steps(self) -> typing.Iterator[Step]:
        """Do one step after the other."""
        yield self._timed('start Glance with %d stores' % len(self._sites),
                          self._start)
        first, second = self._upload(), self._upload()
        copy = self._copy(first, self._edges)
        yield copy
        yield self._copy(second, self._edges)
        yield from self._delete(first, self._sites)
        # Every second one.
        cut = self._edges[::2]
        living = [site for site in self._sites if site not in cut]
        third = self._upload()
        try:
            for site in cut:
                self._lab.cluster(site).freeze()
            yield self._copy(third, self._edges, cut,
                             copy.seconds + 2 * _LOST)
            yield from self._delete(second, living)
        finally:
            for site in cut:
                self._lab.cluster(site).thaw()
        yield self._timed(
            'the %d are back: nothing is left there' % len(cut),
            lambda: self._await_gone([second, third], cut))
        yield from self._delete(third, self._sites)

    def _timed(self, what: str,
               work: typing.Callable[[], list[str] | None]) -> Step:
        began = time.monotonic()
        wrong = work() or []
        return Step(what, time.monotonic() - began, tuple(wrong))

    def _start(self) -> list[str]:
        self._worker.stop()
        self._worker.start()
        return []

    def _upload(self) -> str:
        image = self._images.create(
            name='clusters', disk_format='raw', container_format='bare')['id']
        self._images.upload(image, io.BytesIO(self._data), backend='central')
        return image

    def _copy(self, image: str, targets: list[str],
              cut: typing.Sequence[str] = (),
              limit: float = 600) -> Step:
        what = 'copy %d MiB to %d clusters' % (
            len(self._data) // _MIB, len(targets))
        if cut:
            what += ', %d of which are cut' % len(cut)
        step = self._timed(what, lambda: self._copied(image, targets, cut))
        if step.seconds > limit:
            step = dataclasses.replace(step, wrong=(
                *step.wrong, 'it took longer than %d s' % limit))
        return step

    def _copied(self, image: str, targets: list[str],
                cut: typing.Sequence[str]) -> list[str]:
        self._images.image_import(image, 'copy-image', stores=targets)
        found = self._ended(image)
        failed = set(filter(None, found.get(
            'os_glance_failed_import', '').split(',')))
        stores = set(found['stores'].split(','))
        wrong = []
        if failed != set(cut):
            wrong.append('failed: %s' % sorted(failed ^ set(cut)))
        if stores != set(self._sites).difference(cut):
            wrong.append('stores: %s' % sorted(stores))
        return wrong + [
            'another content at %s' % site for site, digest in zip(
                sorted(stores), self._pool.map(
                    lambda site: self._content(site, image), sorted(stores)))
            if digest != self._digest]

    def _ended(self, image: str) -> dict[str, typing.Any]:
        """Wait until an image is not being copied, and return it."""
        def ended() -> dict[str, typing.Any] | None:
            found = self._images.get(image)
            return None if found.get('os_glance_importing_to_stores') or (
                found.get('os_glance_import_task')) else found
        return process.wait_for('the copy to end', ended, 600, .2)

    def _content(self, site: str, image: str) -> str:
        digest = hashlib.sha256()
        with self._lab.cluster(site).pool() as ioctx, rbd.Image(
                ioctx, image, snapshot='snap', read_only=True) as opened:
            for offset in range(0, opened.size(), 4 * _MIB):
                digest.update(opened.read(offset, min(
                    4 * _MIB, opened.size() - offset)))
        return digest.hexdigest()

    def _delete(self, image: str,
                sites: list[str]) -> typing.Iterator[Step]:
        def ask() -> None:
            self._images.delete(image)
        yield self._timed('delete it: the answer', ask)
        yield self._timed(
            'nothing is left of it at %d clusters' % len(sites),
            lambda: self._await_gone([image], sites))

    def _await_gone(self, images: list[str],
                    sites: typing.Sequence[str]) -> list[str]:
        """Wait until clusters have none of some images; return what stays."""
        left: list[str] = []

        def gone() -> bool:
            left[:] = [found for several in self._pool.map(
                lambda site: self._left(site, images), sites)
                for found in several]
            return not left
        try:
            process.wait_for('nothing to be left', gone, _LEFT, .5)
        except process.LabError:
            return ['left: %s' % ', '.join(left)]
        return []

    def _left(self, site: str, images: list[str]) -> list[str]:
        cluster = self._lab.cluster(site)
        return ['%s at %s' % (image, site)
                for image in cluster.images() + cluster.trash()
                if image in images]
