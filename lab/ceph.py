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

"""A real Ceph cluster of one monitor and one OSD, for one site.

Everything of a cluster lives in one directory; clients are given a conf file
and keyrings named as on a DCN node: ``dcn0.conf`` and
``dcn0.client.glance.keyring``. No manager is needed for pools and RBD.
"""

from concurrent import futures
import contextlib
import json
import pathlib
import shutil
import signal
import uuid

import rados
import rbd

from glance_dcn.ceph import images
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from lab import process

POOLS = ('images', 'vms', 'volumes')
USERS = {
    # What the site's own Glance needs, and no more.
    'glance': {'mon': 'profile rbd', 'osd': 'profile rbd pool=images'},
    # What Nova and Cinder have: they clone from images.
    'openstack': {'mon': 'profile rbd',
                  'osd': 'profile rbd pool=vms, profile rbd pool=volumes, '
                         'profile rbd pool=images'},
}

_CONF = """\
[global]
fsid = %(fsid)s
mon_host = v2:%(address)s:%(port)d
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
ms_bind_msgr1 = false
osd_pool_default_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
# One machine carries several clusters: none may take all of it.
osd_memory_target = 939524096
bluestore_cache_autotune = false
bluestore_cache_size = 134217728
run_dir = %(run)s
admin_socket = %(run)s/$name.asok
log_file = %(log)s/$name.log
debug_ms = 0
keyring = %(directory)s/ceph.$name.keyring

[mon]
# Every snapshot waits for a round of the monitors, which is a second unless
# told otherwise.
paxos_propose_interval = 0.1
mon_data = %(directory)s/mon
# Without it a monitor lets no other one join.
keyring = $mon_data/keyring
mon_initial_members = a
mon_data_avail_crit = 1
mon_data_avail_warn = 1

[osd]
# Not in [global]: there it would make ceph-mon --mkfs drop the port that the
# monitor map has.
public_addr = %(address)s
osd_data = %(directory)s/osd
keyring = %(directory)s/osd/keyring
osd_max_object_name_len = 256
# A lease that runs out while the OSD is stopped (SIGSTOP) is renewed by its
# replicas, of which there are none: requests would wait for ever. 600 s.
osd_pool_default_read_lease_ratio = 30
osd_objectstore = bluestore
bluestore_block_size = %(size)d
bluestore_block_wal_create = false
bluestore_block_db_create = false
# The default of 1024 for each OSD is soon all that a machine has
# (fs.aio-max-nr).
bdev_aio_max_queue_depth = 64
# Closing its file waits for a poll of it, a dozen times when an OSD is made
# and four when it starts; what was just made needs no check.
bdev_aio_poll_ms = 20
bluestore_fsck_on_mkfs = false
"""

_CLIENT_CONF = """\
[global]
fsid = %(fsid)s
mon_host = v2:%(address)s:%(port)d
"""


class Cluster:
    """One cluster, brought up in ``directory``.

    :param name: name of the site, and of its cluster
    :param directory: where its data is kept
    :param etc: where the conf file and keyrings of its clients are put
    :param address: IP address the daemons bind to
    :param size: bytes of the OSD's (sparse) block file
    :param link: :class:`lab.wan.Link` that the daemons are behind; clients
                 reach them over it
    :param guests: what users of other sites' Glances may do: ``read-only`` or
                   ``read-write``, by name of the user; None: as it was made
    """

    def __init__(self, name, directory, etc, address='127.0.0.1',
                 size=64 << 30, link=None, guests=None):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.etc = pathlib.Path(etc)
        self.size = size
        self.link = link
        self._guests = guests
        self._address = address
        self.mon = process.Daemon('ceph-mon', self.directory / 'run')
        self.osd = process.Daemon('ceph-osd', self.directory / 'run')
        self._conf = self.directory / 'ceph.conf'
        self._facts = self.directory / 'facts.json'

    @property
    def address(self):
        """IP address the daemons bind to."""
        return self.link.far if self.link else self._address

    @property
    def conf(self):
        """The conf file for clients."""
        return self.etc / ('%s.conf' % self.name)

    @property
    def fsid(self):
        """The cluster's fsid."""
        return json.loads(self._facts.read_text())['fsid']

    @property
    def guests(self):
        """What users of other sites' Glances may do, by name of the user."""
        if self._guests is None and self._facts.exists():
            return json.loads(self._facts.read_text())['guests']
        return dict(self._guests or {})

    def keyring(self, user):
        """Return the path of a client's keyring."""
        return self.etc / ('%s.client.%s.keyring' % (self.name, user))

    def create(self, port=None):
        """Make the cluster's files, unless they are there.

        A creation that was broken off is begun anew.

        :param port: TCP port of the monitor; None: any that is free
        """
        if (self.directory / 'created').exists():
            return
        self.stop()
        guests = self.guests
        shutil.rmtree(self.directory, ignore_errors=True)
        for folder in ('mon', 'osd', 'run', 'log'):
            (self.directory / folder).mkdir(parents=True)
        self.etc.mkdir(parents=True, exist_ok=True)
        facts = {'fsid': str(uuid.uuid4()), 'osd_uuid': str(uuid.uuid4()),
                 'address': self.address, 'guests': guests,
                 'port': port or self._choose_port()}
        self._facts.write_text(json.dumps(facts))
        self._conf.write_text(_CONF % dict(
            facts, directory=self.directory, size=self.size,
            run=self.directory / 'run', log=self.directory / 'log'))
        self._make_monitor(facts)
        self._make_osd(facts)
        self._make_pools()
        self._make_clients(facts)
        (self.directory / 'created').touch()

    def start(self, timeout=60):
        """Start the daemons and wait until the cluster serves I/O."""
        self.create()
        self._start_monitor(timeout)
        self._start_osd(timeout)

    def rebuild(self):
        """Make the cluster anew, as after the loss of its hardware.

        It is empty, and has another fsid and other keys at the same address.
        """
        port = json.loads(self._facts.read_text())['port']
        self.kill()
        (self.directory / 'created').unlink()
        self.create(port)
        self.start()

    def stop(self):
        """End the daemons; the data stays."""
        self.osd.stop()
        self.mon.stop()

    def kill(self, *daemons):
        """Kill daemons without warning, as a power cut would.

        :param daemons: of this cluster; none: all
        """
        for daemon in daemons or (self.osd, self.mon):
            daemon.signal(signal.SIGKILL)
            daemon.stop()

    def freeze(self, *daemons):
        """Stop daemons as a hung host would; :meth:`thaw` wakes them.

        :param daemons: of this cluster; none: all
        """
        for daemon in daemons or (self.mon, self.osd):
            daemon.signal(signal.SIGSTOP)

    def thaw(self):
        """Let frozen daemons run again."""
        for daemon in (self.mon, self.osd):
            daemon.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def connect(self, user='admin', timeout=30):
        """Connect as a user.

        :param timeout: seconds to wait for the cluster
        :returns: context manager that gives a connected rados.Rados
        """
        conf = self._conf if user == 'admin' else self.conf
        keyring = (self.directory / 'ceph.client.admin.keyring'
                   if user == 'admin' else self.keyring(user))
        client = rados.Rados(conffile=str(conf), rados_id=user,
                             conf={'keyring': str(keyring),
                                   'log_file': '/dev/null',
                                   'admin_socket': '',
                                   'client_mount_timeout': str(timeout),
                                   'rados_mon_op_timeout': str(timeout)})
        client.connect(timeout=timeout)
        try:
            yield client
        finally:
            client.shutdown()

    @contextlib.contextmanager
    def pool(self, name='images', user='openstack'):
        """Open a pool: context manager that gives a rados.Ioctx."""
        with self.connect(user) as client:
            with client.open_ioctx(name) as ioctx:
                yield ioctx

    def images(self, pool='images'):
        """Return the sorted names of the RBD images in a pool."""
        with self.pool(pool) as ioctx:
            return sorted(rbd.RBD().list(ioctx))

    def trash(self, pool='images'):
        """Return the sorted names of the RBD images in a pool's trash."""
        with self.pool(pool) as ioctx:
            return sorted(entry.name for entry in images.trash_entries(ioctx)
                          if entry.source != images.REMOVING)

    def _choose_port(self):
        if self.link:
            # Nothing else is in the namespace: every port is free.
            return process.PORT_RANGE[0]
        return process.free_port(address=self.address)

    def _start_daemon(self, daemon, argv):
        # As systemd starts it: Debian's Ceph 18 and later look for their
        # object classes below the working directory.
        daemon.start(self.link.command(argv) if self.link else argv, cwd='/')

    def _make_monitor(self, facts):
        admin = self.directory / 'ceph.client.admin.keyring'
        keyring = self.directory / 'mon.keyring'
        monmap = self.directory / 'monmap'
        kind, ciphers = _ciphers()
        process.run(['ceph-authtool', '--create-keyring', keyring,
                     '--gen-key', *kind, '-n', 'mon.', '--cap', 'mon',
                     'allow *'])
        process.run(['ceph-authtool', '--create-keyring', admin,
                     '--gen-key', *kind, '-n', 'client.admin',
                     '--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *'])
        process.run(['ceph-authtool', keyring, '--import-keyring', admin])
        process.run(['monmaptool', '--create', '--fsid', facts['fsid'],
                     *ciphers, '--addv', 'a',
                     '[v2:%(address)s:%(port)d]' % facts, monmap])
        process.run(['ceph-mon', '--mkfs', '-i', 'a', '-c', self._conf,
                     '--monmap', monmap, '--keyring', keyring])
        self._start_monitor(timeout=60)

    def _make_osd(self, facts):
        key = process.run(['ceph-authtool', '--gen-print-key',
                           *_ciphers()[0]]).strip()
        with self.connect() as client:
            command(client, {'prefix': 'osd new', 'uuid': facts['osd_uuid']},
                    json.dumps({'cephx_secret': key}))
        process.write_private(self.directory / 'osd' / 'keyring',
                              '[osd.0]\n\tkey = %s\n' % key)
        process.run(['ceph-osd', '--mkfs', '-i', '0', '-c', self._conf,
                     '--osd-uuid', facts['osd_uuid'], '--no-mon-config'])
        self._start_osd(timeout=60)

    def _make_pools(self):
        with self.connect() as client, \
                futures.ThreadPoolExecutor() as executor:
            for pool in POOLS:
                command(client, {'prefix': 'osd pool create', 'pool': pool,
                                 'pg_num': 8})
            # That waits for its placement groups.
            list(executor.map(lambda pool: _prepare_pool(client, pool),
                              POOLS))

    def _make_clients(self, facts):
        conf = _CLIENT_CONF % facts
        with self.connect() as client:
            users = dict(USERS, **{
                user: cephconf.caps(['images'], model.Access(access))
                for user, access in self.guests.items()})
            for user, caps in users.items():
                flat = [part for item in caps.items() for part in item]
                reply = command(client, {
                    'prefix': 'auth get-or-create', 'format': 'json',
                    'entity': 'client.%s' % user, 'caps': flat})
                process.write_private(
                    self.keyring(user), '[client.%s]\n\tkey = %s\n'
                    % (user, json.loads(reply)[0]['key']))
                conf += '\n[client.%s]\nkeyring = %s\n' % (
                    user, self.keyring(user))
        self.conf.write_text(conf)

    def _start_monitor(self, timeout):
        self._start_daemon(self.mon, ['ceph-mon', '-f', '-i', 'a',
                                      '-c', self._conf])
        self.mon.wait_until(self._monitor_answers, timeout)

    def _start_osd(self, timeout):
        with self.connect() as client:
            # The monitor takes one that was killed for up still. A client that
            # learns of its new address too late asks for the map after 10 s.
            before = None if self.osd.pid else _osd_up_since(client)
            self._start_daemon(self.osd, ['ceph-osd', '-f', '-i', '0',
                                          '-c', self._conf])
            self.osd.wait_until(
                lambda: _osd_up_since(client) not in (None, before), timeout)

    def _monitor_answers(self):
        with contextlib.suppress(rados.Error):
            with self.connect(timeout=5) as client:
                return client.get_fsid() == self.fsid
        return False


def _ciphers():
    """Return arguments of ceph-authtool and monmaptool for the oldest cipher.

    From Ceph 20 on they make keys that no older client can read.
    """
    if '--auth-allowed-ciphers' not in process.run(['monmaptool', '--help']):
        return [], []
    return ['--key-type', 'aes'], [
        '--auth-allowed-ciphers', 'aes,aes256k', '--auth-service-cipher',
        'aes', '--auth-preferred-cipher', 'aes']


def _prepare_pool(client, pool):
    command(client, {'prefix': 'osd pool set', 'pool': pool, 'var': 'size',
                     'val': '1', 'yes_i_really_mean_it': True})
    with client.open_ioctx(pool) as ioctx:
        rbd.RBD().pool_init(ioctx, True)


def command(client, request, data=''):
    """Run a monitor command and return its output as text.

    :param client: rados.Rados
    :param request: dict with the command as ``prefix``, and its arguments
    :param data: text of its input
    :raises LabError: if the monitor refuses
    """
    code, output, status = client.mon_command(json.dumps(request),
                                              data.encode(), timeout=30)
    if code:
        raise process.LabError('%s: error %d: %s'
                               % (request['prefix'], code, status))
    return output.decode()


def _osd_up_since(client):
    """Return the epoch since which the OSD is up; None: it is not, or out."""
    state = json.loads(command(client, {'prefix': 'osd dump',
                                        'format': 'json'}))
    for osd in state['osds']:
        if osd['up'] and osd['in']:
            return osd['up_from']
    return None
