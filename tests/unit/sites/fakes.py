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

"""Sites whose images are in memory."""

import contextlib
import types
from unittest import mock

import fixtures

from glance_dcn.ceph import errors
from glance_dcn.sites import limits
from glance_dcn.sites import sources
from tests.unit.engine import memory


class Image(memory.Memory):
    """An endpoint with what the rooms above the engine ask of one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.image = mock.Mock(**{'id.return_value': 'id of %s' % self.name})

    def call(self, function, *args, fence=True):
        return function(self.image, *args)

    def close(self):
        pass


class Site:
    """A site of memory images.

    :param name: its name
    :param data: what it holds of the image; None: nothing
    :ivar opening: called as an image is begun; it may wait or raise
    :ivar calls: names of what was done here, in order
    """

    available = True
    io_timeout = 60

    def __init__(self, name, data=None):
        self.name = name
        self.held = None if data is None else Image(name, data=data)
        self.limits = limits.get(name)
        self.opening = lambda: None
        self.publishing = lambda: None
        self.calls = []
        self.connection = types.SimpleNamespace(round_trip=0)

    def open_pool(self, pool=None):
        return contextlib.nullcontext(self)

    @contextlib.contextmanager
    def reading(self, ioctx, image, snapshot=None):
        self.calls.append('read')
        if self.held is None:
            raise errors.Unreachable(self.name, 'it is away', 'wait')
        yield self.held

    def begin(self, ioctx, image, size):
        self.calls.append('begin')
        self.opening()
        self.held = Image(self.name, size)
        return self.held

    def call(self, function, *args, **unused):
        return function(*args)

    def publish(self, endpoint, record):
        self.publishing()
        self.calls.append('publish')

    def published(self, image, size):
        pass

    def commit(self, image, image_id):
        self.calls.append('commit')

    def failed(self, error):
        return False

    def discard_or_defer(self, ioctx, image, image_id=None):
        self.calls.append('discard')
        self.held = None

    def remember(self, ioctx, image, image_id, record):
        pass

    def release_adopted(self, image, image_id):
        self.calls.append('release')

    def source(self):
        return sources.Source(self, None, 'image', None)


class Cluster(fixtures.Fixture):
    """What is asked of librbd and RADOS about images of such sites."""

    def _setUp(self):
        for name, value in (
                ('glance_dcn.ceph.images.refer', mock.Mock()),
                ('glance_dcn.ceph.images.is_unchanged', lambda *args: True),
                ('glance_dcn.ceph.images.read_image_id',
                 lambda site, image: site.held.image.id()),
                ('glance_dcn.ceph.records.load', lambda image: None),
                ('glance_dcn.ceph.records.save', lambda image, record: None),
                ('glance_dcn.sites.home.proves', lambda *args: False),
                ('glance_dcn.sites.home.is_authentic',
                 lambda *args: True),
                ('glance_dcn.sites.home.sign',
                 lambda site, image, record: record)):
            self.useFixture(fixtures.MonkeyPatch(name, value))
