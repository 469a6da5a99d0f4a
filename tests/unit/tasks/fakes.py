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

"""Clusters in memory: the omaps of records, and the images of a pool."""

import contextlib
import json

import fixtures

from glance_dcn.ceph import errors
from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.sites import home
from glance_dcn.sites import limits
from glance_dcn.upstream import glance_db

IMAGE = '0a1b2c3d-0000-4000-8000-112233445566'
OTHER = IMAGE.replace('0a', '0b')

NAMED = glance_db.Answer(glance_db.Location.NAMED, was_named=True)
DROPPED = glance_db.Answer(glance_db.Location.NOT_NAMED, was_named=True)
NEVER_NAMED = glance_db.Answer(glance_db.Location.NOT_NAMED)
IN_USE = glance_db.Answer(glance_db.Location.NOT_NAMED, settled=False,
                          was_named=True)
DELETED = glance_db.Answer(glance_db.Location.DELETED, was_named=True)
UNKNOWN = glance_db.Answer(glance_db.Location.UNKNOWN, settled=False)


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Periodic:
    """Work that the tests do themselves."""

    def __init__(self, name, work, interval):
        self.runs = False

    def start(self):
        self.runs = True

    def stop(self):
        self.runs = False

    def wake(self):
        pass


class Ioctx:
    """An open pool of a :class:`Site`."""

    def __init__(self, site, pool):
        self.site = site
        self.pool = pool
        self.namespace = ''

    def set_namespace(self, namespace):
        self.namespace = namespace

    def omap(self, name):
        """Return the omap of an object, a dict."""
        return self.site.omaps.setdefault(
            (self.pool, self.namespace, name), {})


class Site:
    """A site with a cluster in memory.

    :ivar refusal: exception with which every use of it fails, or None
    :ivar omaps: dicts of text by key, by (pool, namespace, object)
    :ivar images: :class:`glance_dcn.ceph.images.ImageInfo` by (pool, name)
    :ivar trash: internal ID by (pool, name)
    :ivar in_use: internal IDs of images that cannot be removed
    :ivar locked: names whose name lock others hold
    :ivar blocklisted: addresses
    :ivar calls: how many go on, of those that are left if it goes away
    """

    def __init__(self, name, fsid='f', pool='images'):
        self.name = name
        self.fsid = fsid
        self.pool = pool
        self.config = None
        self.address = '10.0.0.1:0/1'
        self.refusal = None
        self.omaps = {}
        self.images = {}
        self.trash = {}
        self.in_use = set()
        self.locked = set()
        self.blocklisted = set()
        self.cannot_blocklist = set()
        self.waiting = []
        self.suspicions = self.calls = 0
        self.limits = limits.Limits(name)
        self.connection = self

    @property
    def available(self):
        return self.refusal is None

    def away(self):
        """Have the site away from now on."""
        self.refusal = errors.Unreachable(self.name, 'it is away', 'wait')

    def back(self):
        """Have it back."""
        self.refusal = None
        for function in self.waiting:
            function()

    def add_up_callback(self, function):
        self.waiting.append(function)

    def suspect(self):
        self.suspicions += 1

    def call(self, function, *args, **unused):
        self.calls += 1
        try:
            return function(*args)
        finally:
            self.calls -= 1

    @contextlib.contextmanager
    def open_pool(self, pool=None):
        if self.refusal:
            raise self.refusal
        yield Ioctx(self, pool or self.pool)

    @contextlib.contextmanager
    def name_lock(self, ioctx, image):
        if image in self.locked:
            raise name_lock.NotLocked(image, 'another client holds it')
        self.locked.add(image)
        try:
            yield
        finally:
            self.locked.discard(image)

    def blocklist(self, addresses):
        addresses = set(addresses)
        self.blocklisted |= addresses - self.cannot_blocklist
        return addresses & self.cannot_blocklist

    def uri(self, image, pool=None):
        return 'rbd://%s/%s/%s/snap' % (self.fsid, pool or self.pool, image)

    def add(self, image_id, image=IMAGE, pool=None, **fields):
        """Put an image into a pool, a published one unless said otherwise."""
        fields = dict({'published': True, 'blank': False}, **fields)
        self.images[pool or self.pool, image] = images.ImageInfo(
            image_id, **fields)


class Database:
    """What Glance's database says, by URI.

    :ivar says: :class:`glance_dcn.upstream.glance_db.Answer` for all other
        URIs
    :ivar refusal: exception with which it answers, or None
    """

    available = True

    def __init__(self, says=DROPPED):
        self.says = says
        self.answers = {}
        self.refusal = None

    def ask(self, image_id, uri):
        if self.refusal:
            raise self.refusal
        return self.answers.get(uri, self.says)


class MemoryCluster(fixtures.Fixture):
    """Has the functions of omap and images work on :class:`Ioctx`.

    A test may give it other functions, at any time. What is asked of records
    must be asked by :meth:`Site.call`: it may never be answered.

    :ivar on_swap: called before each comparison, with the key
    """

    def _setUp(self):
        self.on_swap = lambda key: None
        for name in ('put', 'put_later', 'swap', 'remove',
                     'remove_later', 'get', 'walk', 'remove_object'):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.ceph.omap.' + name, self._function(name)))
        for name in ('inspect', 'read_image_id', 'is_being_removed',
                     'find_being_removed'):
            self.useFixture(fixtures.MonkeyPatch(
                'glance_dcn.ceph.images.' + name, getattr(self, name)))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.images.remove', self.remove_image))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.images.purge', self.purge))

    def _function(self, name):
        def function(ioctx, *args, **kwargs):
            if not ioctx.site.calls and not name.endswith('_later'):
                raise AssertionError('%s() is waited for without end' % name)
            return getattr(self, name)(ioctx, *args, **kwargs)
        return function

    def put(self, ioctx, name, records, timeout=omap.TIMEOUT):
        ioctx.omap(name).update(records)

    put_later = put

    def swap(self, ioctx, name, key, before, after, others=None):
        self.on_swap(key)
        if ioctx.omap(name).get(key, '') != (before or ''):
            return False
        ioctx.omap(name).update({key: after, **(others or {})})
        return True

    def remove(self, ioctx, name, key, text=None):
        if text is not None and ioctx.omap(name).get(key, '') != text:
            return False
        ioctx.omap(name).pop(key, None)
        return True

    def remove_later(self, ioctx, name, key, failed, text=None):
        if not self.remove(ioctx, name, key, text):
            failed()

    def get(self, ioctx, name, key):
        return ioctx.omap(name).get(key)

    def walk(self, ioctx, name, prefix=''):
        yield from [(key, text) for key, text
                    in sorted(ioctx.omap(name).items())
                    if key.startswith(prefix)]

    def remove_object(self, ioctx, name):
        ioctx.omap(name).clear()

    def inspect(self, ioctx, name):
        return ioctx.site.images.get((ioctx.pool, name))

    def read_image_id(self, ioctx, name):
        found = self.inspect(ioctx, name)
        return found and found.image_id

    def is_being_removed(self, ioctx, name, image_id):
        return False

    def find_being_removed(self, ioctx, name):
        return None

    def remove_image(self, ioctx, name, image_id, snapshot=None,
                     trashing=None, in_use_too=False):
        if image_id is None or self.read_image_id(ioctx, name) != image_id:
            raise images.rbd.ImageNotFound(name)
        if name not in ioctx.site.locked:
            raise AssertionError('removed without the name lock')
        if image_id in ioctx.site.in_use:
            if not in_use_too:
                raise images.InUse(name)
            trashing(image_id)
            ioctx.site.trash[ioctx.pool, name] = image_id
        del ioctx.site.images[ioctx.pool, name]

    def purge(self, ioctx, name, image_id, snapshot=None):
        if ioctx.site.trash.get((ioctx.pool, name)) != image_id:
            raise images.rbd.ImageNotFound(name)
        if image_id in ioctx.site.in_use:
            raise images.InUse(name)
        del ioctx.site.trash[ioctx.pool, name]


def next_release(text):
    """Return a record as a release with the next version would keep it."""
    fields = json.loads(text)
    return json.dumps(dict(fields, version=fields['version'] + 1, more=[]))


def records_of(site, name='tasks'):
    """Return the omap in which a site, as home, keeps its records."""
    return site.omaps.setdefault((site.pool, home.NAMESPACE, name), {})
