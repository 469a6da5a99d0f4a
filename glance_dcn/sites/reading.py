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

"""Reading an image from one site after the other, as they fail."""

import contextlib
import logging

import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import records
from glance_dcn.engine import errors as engine_errors

LOG = logging.getLogger(__name__)

#: What it means that a source cannot be read.
FAILURES = (errors.ClusterError, engine_errors.EngineError, rbd.Error)


class Relay:
    """The sources of one image, of which one at a time is open.

    The first one that was opened is taken on trust; another takes its place
    only if both have the same recorded size and content digest. Use it as a
    context manager: it closes what is open.

    :param sources: iterable of :class:`glance_dcn.sites.sources.Source`,
        preferred first; it is asked for the next one when that is needed
    :ivar record: :class:`glance_dcn.ceph.records.Record` that others must
        have; None: there will be no other
    :ivar source: the one that is open
    :ivar names: names of the sites that were read, in order
    :ivar failed: exceptions by the name of the site that could not be read
    """

    def __init__(self, sources, record=None):
        self.record = record
        self.source = None
        self.names = []
        self.failed = {}
        self.ioctx = None
        self._sources = iter(sources)
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        # What a source failed with is to pass through its pool.
        return self._stack.__exit__(*exc_info)

    def open(self):
        """Open the first source that can be opened.

        :returns: engine endpoint
        :raises: what the first one failed with, one of :data:`FAILURES`
        """
        self.source = next(self._sources)
        try:
            return self._open(check=False)
        except FAILURES as exc:
            endpoint = self.another(exc)
            if endpoint is None:
                raise
            return endpoint

    def another(self, error):
        """Give up the source that is open and open the next that will do.

        :param error: what it failed with
        :returns: engine endpoint, or None if there is none
        """
        if self.source.site.name not in self.failed:
            self._give_up(error)
        if self.record is None:
            return None
        for source in self._sources:
            if source.site.name in self.failed or not source.site.available:
                continue
            self.source = source
            try:
                endpoint = self._open(check=True)
            except FAILURES as exc:
                self._give_up(exc)
                continue
            if endpoint is not None:
                LOG.warning('Reading of image %(image)s goes on from store '
                            '%(store)s', {'image': source.image,
                                          'store': source.site.name})
                return endpoint
        return None

    def _give_up(self, error):
        source = self.source
        self.failed[source.site.name] = error
        source.site.failed(error)
        LOG.warning('Image %(image)s cannot be read from store %(store)s: '
                    '%(error)s', {'image': source.image,
                                  'store': source.site.name, 'error': error})

    def _open(self, check):
        """Open the present source; return None if it is not the same image."""
        with contextlib.ExitStack() as stack:
            self.ioctx, endpoint = stack.enter_context(_opened(self.source))
            if check and not _is_same(endpoint, self.record):
                return None
            # The one before it stays open until its requests have landed.
            self._stack.push(stack.pop_all())
        self.names.append(self.source.site.name)
        return endpoint


@contextlib.contextmanager
def _opened(source):
    with source.site.open_pool(source.pool) as ioctx, source.site.reading(
            ioctx, source.image, source.snapshot) as endpoint:
        yield ioctx, endpoint


def _is_same(endpoint, record):
    found = records.load(endpoint.image)
    return (found is not None and endpoint.size == record.size
            and (found.size, found.content) == (record.size, record.content))
