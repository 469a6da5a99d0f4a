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

"""Records that were forged, and the images that they ask for.

They are written with three keys: that of an edge, which may write to the
default namespace of the pool; that of an edge in a layout which lets it into
all namespaces; and that of the home itself, whose records glance_dcn reads.
With the first two, what releases before the namespace took for records. With
the last one, what is no record, and tasks that are, for images that are not
to be removed. None may have any effect.
"""

import contextlib
import dataclasses
import json
import threading
import time
import uuid

import rados
import rbd

from glance_dcn.sites import home as homes
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from lab import process
from tests.chaos import check
from tests.chaos import plan as plans
from tests.chaos import records

_POOL = 'images'
#: A pool that no store has.
_OTHER_POOL = 'volumes'
_MIB = 1 << 20
# Seconds in which a record has its effect: a writer without a lease is taken
# for dead after 30, and one that is committed has a minute.
_EFFECT = 100
# Objects of earlier releases, in the default namespace.
_OLD = ('glance_dcn.owed', 'glance_dcn.owed.%s', 'glance_dcn.sites',
        'glance_dcn.workers', 'glance_dcn.fsids')


@dataclasses.dataclass(frozen=True)
class Victim:
    """An RBD image that no forged record may have removed.

    :ivar site: where it is
    :ivar pool: name of the pool
    :ivar name: its name
    :ivar identity: its internal ID
    :ivar trashed: whether it is in the trash
    """

    site: str
    pool: str
    name: str
    identity: str
    trashed: bool = False


class Forger:
    """Forges records, and sees that they had no effect.

    :ivar keys: keys of the records at home

    :param stage: :class:`tests.chaos.stage.Stage`
    :param actions: :class:`tests.chaos.operations.Operations`
    """

    def __init__(self, stage, actions):
        self._stage = stage
        self._actions = actions
        self.keys = set()
        self._victims = []
        # Texts by (site, object, key), as they were written.
        self._old = {}
        # What is at homes beside tasks: (site, object, key).
        self._beside = set()
        self._found = []
        # When records were forged at a home last, by the monotonic clock.
        self._forged = 0

    def cause(self, fault):
        """Forge the records of one fault.

        :param fault: :class:`tests.chaos.plan.Fault`
        :raises lab.process.LabError: if there is no image to be asked for
        :raises rados.Error: if a site is away
        """
        known = self._actions.known[fault.image.number]
        self._import(fault, fault.image, [fault.site])
        if fault.site not in known.confirmed:
            raise process.LabError('there is no image')
        site = self._stage.lab.cluster(fault.site)
        with site.pool(_POOL) as ioctx:
            identity = _identity(ioctx, known.id)
        if fault.options['key'] == 'home':
            self._forge_at_homes(fault, known, identity)
            return
        for where in {fault.site, plans.CENTRAL}:
            self._forge_old(where, fault, known.id, identity)

    def owns(self, site, what):
        """Return whether it is an image of this one's own.

        :param what: ``pool/name``
        """
        return any((victim.site, '%s/%s' % (victim.pool, victim.name))
                   == (site, what) for victim in self._victims)

    def check(self):
        """Return the list of :class:`tests.chaos.check.Violation`.

        Waits until every forged record has had the time for an effect.
        """
        found = list(self._found)
        if self.keys:
            self._stage.wait(self._forged + _EFFECT - time.monotonic())
            found += self._untried()
        for victim in self._victims:
            with self._pool(victim.site, victim.pool) as ioctx:
                if not _is_there(ioctx, victim):
                    found.append(check.Violation(
                        'forged record had an effect', '%s/%s' % (
                            victim.pool, victim.name), victim.site))
        for (site, name, key), text in self._old.items():
            with self._pool(site) as ioctx:
                if _get(ioctx, name, key) != text:
                    found.append(check.Violation(
                        'forged record was taken up', '%s: %s' % (name, key),
                        site))
        return found

    def _untried(self):
        """Find forged tasks that no task runner has looked at.

        They would prove nothing.
        """
        for site in self._stage.lab.sites:
            with records.home(self._stage, site) as store:
                for record in store.scan().records:
                    if (isinstance(record, tasks.Task)
                            and record.key in self.keys
                            and not record.message):
                        yield check.Violation(
                            'forged task was not tried', record.key, site)

    def remove(self):
        """Remove the records and the images of this one's own."""
        for site in self._stage.lab.sites:
            with self._pool(site) as ioctx:
                for name in {name for where, name, _key in self._old
                             if where == site}:
                    with contextlib.suppress(rados.ObjectNotFound):
                        ioctx.remove_object(name)
                ioctx.set_namespace(homes.NAMESPACE)
                _remove_keys(ioctx, stores.OBJECT, self.keys)
                for where, name, key in self._beside:
                    if where == site:
                        _remove_keys(ioctx, name, [key])
        for victim in self._victims:
            with self._pool(victim.site, victim.pool) as ioctx:
                _purge(ioctx, victim)
        self._victims.clear()
        self._old.clear()

    def _pool(self, site, pool=_POOL):
        return self._stage.lab.cluster(site).pool(pool)

    def _import(self, fault, image, stores_):
        return self._actions.run(plans.Operation(
            -1, 'import', (plans.CENTRAL, fault.worker), image,
            tuple(stores_), {'method': 'web-download', 'must': True}))

    # With an edge's key

    def _forge_old(self, where, fault, image, identity):
        """Write what an earlier release would have acted upon."""
        key = fault.options['key']
        texts = dict(_old_records(fault.site, image, identity,
                                  self._stage.lab.cluster(fault.site).fsid))
        with self._stage.connect(where, key) as client, \
                client.open_ioctx(_POOL) as ioctx:
            for name, items in texts.items():
                _put(ioctx, name, items)
                self._old.update({(where, name, one): text
                                  for one, text in items.items()})
            if key == 'edge':
                self._try_home(ioctx, where)

    def _try_home(self, ioctx, where):
        """See that the key does not reach the records."""
        ioctx.set_namespace(homes.NAMESPACE)
        try:
            _put(ioctx, stores.OBJECT, {'forged': '{}'})
        except rados.PermissionError:
            return
        self._found.append(check.Violation(
            'records can be written by an edge', stores.OBJECT, where))

    # With the home's own key

    def _forge_at_homes(self, fault, known, identity):
        self._make_victims(fault.site)
        living = threading.Thread(target=self._forge_for_a_writer,
                                  args=(fault,))
        living.start()
        try:
            for where in {fault.site, plans.CENTRAL}:
                with records.home(self._stage, where) as store:
                    self._write(store, self._hostile(
                        fault.site, known.id, identity))
                    self._write_malformed(where, store, fault.site, known.id)
        finally:
            living.join()
            self._forged = time.monotonic()

    def _make_victims(self, site):
        """Make images that Glance does not know."""
        for pool, trashed in ((_POOL, False), (_POOL, True),
                              (_OTHER_POOL, False)):
            name = str(uuid.uuid4())
            with self._pool(site, pool) as ioctx:
                rbd.RBD().create(ioctx, name, _MIB)
                with rbd.Image(ioctx, name) as image:
                    identity = image.id()
                    # Noted first: the site may go away at any moment.
                    self._victims.append(Victim(site, pool, name, identity,
                                                trashed))
                    image.write(b'victim', 0)
                    if not trashed:
                        image.create_snap('snap')
                        image.protect_snap('snap')
                if trashed:
                    rbd.RBD().trash_move(ioctx, name)

    def _hostile(self, site, image, identity):
        """Return tasks and intents for what must stay."""
        fsid = self._stage.lab.cluster(site).fsid

        def task(action, name, image_id, pool=_POOL):
            return tasks.Task(action, site, name, pool, fsid=fsid,
                              image_id=image_id, snapshot='snap')

        def intent(name, image_id, state):
            return tasks.Intent(site, name, _POOL, fsid, 'no such lease', '',
                                image_id=image_id, state=state)

        targets = [(image, identity, _POOL)] + [
            (victim.name, victim.identity, victim.pool)
            for victim in self._victims if victim.site == site]
        for name, image_id, pool in targets:
            for action in tasks.Action:
                yield task(action, name, image_id, pool)
            yield task(tasks.Action.DELETE, name, None, pool)
            for state in tasks.State:
                yield intent(name, image_id, state)
        # Another pool's image under the name of one that Glance knows.
        yield task(tasks.Action.DELETE, image, None, _OTHER_POOL)

    def _write(self, store, forged):
        """Write tasks and intents of this deployment."""
        for record in forged:
            self.keys.add(record.key)
            store.put(record)

    def _write_malformed(self, where, store, site, image):
        texts = dict(_malformed(store, site, image))
        self.keys.update(texts)
        with store.home.open() as ioctx:
            _put(ioctx, stores.OBJECT, texts)
            for name, key in (('workers', 'worker/forged'),
                              ('sites', 'site/forged'),
                              ('fsids', 'forged')):
                self._beside.add((where, name, key))
                _put(ioctx, name, {key: '{"version": 2'})

    def _forge_for_a_writer(self, fault):
        """Ask for the removal of an image while it is being written."""
        image = dataclasses.replace(
            fault.image, number=fault.image.number + plans.WRITTEN)
        known = self._actions.add(image)
        writer = threading.Thread(target=self._import,
                                  args=(fault, image, [fault.site]))
        writer.start()
        try:
            while writer.is_alive():
                with contextlib.suppress(rados.Error, rbd.Error,
                                         process.LabError):
                    self._ask_for_removal(fault.site, known)
                time.sleep(.5)
        finally:
            writer.join()

    def _ask_for_removal(self, site, known):
        if not known.id:
            return
        with self._pool(site) as ioctx:
            identity = _identity(ioctx, known.id)
        fsid = self._stage.lab.cluster(site).fsid
        with records.home(self._stage, site) as store:
            self._write(store, [
                tasks.Task(action, site, known.id, _POOL, fsid=fsid,
                           image_id=image_id, uid='forged%s' % known.id)
                for action in (tasks.Action.DELETE,
                               tasks.Action.REMOVE_INCOMPLETE)
                for image_id in {None, identity}])


def _old_records(site, image, identity, fsid):
    """Give records of version 1, as dicts of texts by key, by object."""
    record = {'version': 1, 'image': image, 'pool': _POOL, 'fsid': fsid,
              'image_id': identity, 'snapshot': 'snap', 'writer': None,
              'published': None, 'since': 1.0, 'by': 'forger:1',
              'attempts': 0, 'tried': None, 'error': None, 'token': 'forged'}
    owed = {'%s/%s' % (image, key): json.dumps(dict(record, job=job))
            for key, job in (
                ('delete', 'delete'), ('half-written/forged', 'half-written'),
                ('reap/%s' % identity, 'reap'))}
    worker = {'version': 1, 'identity': 'forged', 'site': site,
              'url': 'http://127.0.0.1:9', 'host': 'forged', 'staging': '/',
              'release': '1', 'instance_id': 'forged', 'beat': 1,
              'since': 1.0, 'seen': time.time(), 'reference': 'right',
              'faults': [], 'taken_by': None}
    options = json.dumps({'rbd_store_ceph_conf': '/nonsense/forged.conf',
                          'rbd_store_pool': _POOL})
    for name in _OLD:
        if 'owed' in name:
            yield name % site if '%' in name else name, owed
    yield 'glance_dcn.sites', {'site/%s' % site: options,
                               'site/forged': options}
    yield 'glance_dcn.workers', {'worker/forged': json.dumps(worker)}
    yield 'glance_dcn.fsids', {site: json.dumps(
        {'fsid': str(uuid.uuid4()), 'since': 1.0, 'former': [fsid]})}


def _malformed(store, site, image):
    """Give (key, text) of what is no record, by its key or its text."""
    task = tasks.Task(tasks.Action.DELETE, site, image, _POOL)
    text = store.text(task)
    fields = json.loads(text)
    prefix = tasks.prefix(site, image)
    for number, bad in enumerate((
            '', '{', '[]', 'null', '[' * 10000, '"' + 'x' * 20000,
            json.dumps(dict(fields, version=1)),
            json.dumps(dict(fields, deployment='other')),
            json.dumps(dict(fields, more=1)),
            json.dumps(dict(fields, action='erase')),
            json.dumps(dict(fields, pool=['images'])),
            json.dumps(dict(fields, image='a\nb')),
            json.dumps(dict(fields, created_at=-1)),
            text.replace('{', '{"action": "delete", ', 1),
            # Right, but that its key is another's.
            text)):
        yield '%stask/delete.forged%d' % (prefix, number), bad
    yield prefix + 'forged', text
    yield 'site/%s' % site, text
    yield 'site/%ff/x/task/delete', text
    yield 'lease/forged', '{'
    yield 'forged', text


def _put(ioctx, name, texts):
    with rados.WriteOpCtx() as op:
        ioctx.set_omap(op, tuple(texts),
                       tuple(text.encode() for text in texts.values()))
        ioctx.operate_write_op(op, name)


def _get(ioctx, name, key):
    with rados.ReadOpCtx() as op:
        found, _status = ioctx.get_omap_vals_by_keys(op, (key,))
        try:
            ioctx.operate_read_op(op, name)
        except rados.ObjectNotFound:
            return None
        return {one: text.decode() for one, text in found}.get(key)


def _remove_keys(ioctx, name, keys):
    if keys:
        with rados.WriteOpCtx() as op:
            ioctx.remove_omap_keys(op, tuple(keys))
            ioctx.operate_write_op(op, name)


def _identity(ioctx, name):
    """Return the internal ID of an image, or None."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return image.id()
    except rbd.ImageNotFound:
        return None


def _is_there(ioctx, victim):
    if not victim.trashed:
        return _identity(ioctx, victim.name) == victim.identity
    return victim.identity in [entry['id']
                               for entry in rbd.RBD().trash_list(ioctx)]


def _purge(ioctx, victim):
    with contextlib.suppress(rbd.ImageNotFound):
        if victim.trashed:
            rbd.RBD().trash_remove(ioctx, victim.identity, True)
            return
        with rbd.Image(ioctx, victim.name) as image:
            for snap in list(image.list_snaps()):
                if image.is_protected_snap(snap['name']):
                    image.unprotect_snap(snap['name'])
                image.remove_snap(snap['name'])
        rbd.RBD().remove(ioctx, victim.name)
