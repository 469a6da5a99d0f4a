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

"""Copies to more stores than one wave has, and than quotas allow."""

import json
import os
import pathlib
import signal

import rbd

from lab import ceph
from lab import glance
from lab import process
from tests.functional.api import base

MiB = 1 << 20
STORES = ['w%02d' % number for number in range(12)]
# The one that trickles, and the MiB a second at which it does.
SLOW, _RATE = STORES[3], 0.002


class Pools:
    """Pools of a cluster of the lab that stand for sites.

    :param cluster: :class:`lab.ceph.Cluster`
    :param folder: where the conf file of their user is kept
    """

    def __init__(self, cluster, folder):
        self._cluster = cluster
        self.conf = folder / 'pools.conf'
        keyring = folder / 'pools.keyring'
        with cluster.connect() as client:
            for pool in STORES:
                ceph.command(client, {'prefix': 'osd pool create',
                                      'pool': pool, 'pg_num': 1})
                ceph.command(client, {
                    'prefix': 'osd pool set', 'pool': pool, 'var': 'size',
                    'val': '1', 'yes_i_really_mean_it': True})
                ceph.command(client, {
                    'prefix': 'osd pool application enable', 'pool': pool,
                    'app': 'rbd'})
            reply = ceph.command(client, {
                'prefix': 'auth get-or-create', 'format': 'json',
                'entity': 'client.pools',
                'caps': ['mon', 'profile rbd', 'osd', 'profile rbd']})
        process.write_private(keyring, '[client.pools]\n\tkey = %s\n'
                              % json.loads(reply)[0]['key'])
        self.conf.write_text('%s\n[client.pools]\nkeyring = %s\n' % (
            cluster.conf.read_text(), keyring))

    def store(self, pool, **options):
        """Return the options of a store."""
        return glance.rbd_store(
            self._cluster, rbd_store_ceph_conf=self.conf,
            rbd_store_user='pools', rbd_store_pool=pool, **options)

    def images(self, image_id):
        """Return the pools that have an image."""
        found = []
        with self._cluster.connect() as client:
            for pool in STORES:
                with client.open_ioctx(pool) as ioctx:
                    if image_id in rbd.RBD().list(ioctx):
                        found.append(pool)
        return found

    def read(self, pool, image_id):
        with self._cluster.connect() as client, client.open_ioctx(
                pool) as ioctx, rbd.Image(ioctx, image_id, 'snap',
                                          read_only=True) as image:
            return image.read(0, image.size())

    def remove(self):
        with self._cluster.connect() as client:
            option = {'who': 'mon', 'name': 'mon_allow_pool_delete'}
            ceph.command(client, dict(option, prefix='config set',
                                      value='true'))
            for pool in STORES:
                ceph.command(client, {
                    'prefix': 'osd pool rm', 'pool': pool, 'pool2': pool,
                    'yes_i_really_really_mean_it': True})
            ceph.command(client, dict(option, prefix='config rm'))
            ceph.command(client, {'prefix': 'auth del',
                                  'entity': 'client.pools'})


class WavesTest(base.OwnGlanceTestCase):
    """A Glance with 13 stores, which may write to five at a time.

    No image may have more than 10 locations.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.make_folder()
        cls.pools = Pools(base.lab().cluster('dcn0'), pathlib.Path(folder))
        cls.addClassCleanup(cls.pools.remove)
        cls.overrides = {'DEFAULT': {'image_location_quota': 10},
                         'glance_dcn': {'copy_targets': 5},
                         'image_import_opts': {'image_import_plugins':
                                               "['dcn_distributed_staging']"},
                         SLOW: {'dcn_bandwidth_limit': _RATE}}
        cls.start_own(dict(
            base.rbd_stores(sites=['central']),
            **{store: ('dcn', cls.pools.store(store)) for store in STORES}),
            overrides=cls.overrides)

    def setUp(self):
        super().setUp()
        blocks = bytearray(36 * MiB)
        for number in range(9):
            at = number * 4 * MiB
            blocks[at:at + 65536] = os.urandom(65536)
        self.data = bytes(blocks)

    def listed(self, name):
        text = self.api.images.get(self.image_id).get(name)
        return set(text.split(',')) if text else set()

    def wait_for_all_but_the_slow_one(self):
        process.wait_for(
            'the others', lambda: self.listed(
                'os_glance_importing_to_stores') == {SLOW}, 60)
        self.assertLocated(self.api.images.get(self.image_id), 'central', *(
            store for store in STORES if store != SLOW))

    def assertLocated(self, image, *stores):
        self.assertEqual(set(stores), set(image['stores'].split(',')))

    def test_import_into_many(self):
        # Few near ones are written one after the other.
        stores = [store for store in STORES[:8] if store != SLOW]
        self.image_id = self.uploaded(self.api, self.data, 'central', *stores)
        image = self.api.images.get(self.image_id)
        self.assertLocated(image, 'central', *stores)
        self.assertDescribes(image, self.data)
        for store in stores:
            self.assertSame(self.data, self.pools.read(store, self.image_id))
            self.assertIn('RBD image %s is in store %s already' % (
                self.image_id, store), self.own.log)
        self.api.images.delete(self.image_id)

    def test_one_trickles_and_the_worker_is_killed(self):
        self.image_id = self.uploaded(self.api, self.data, 'central')
        self.api.images.image_import(
            self.image_id, 'copy-image', stores=STORES)
        self.wait_for_all_but_the_slow_one()
        self.assertIn('11 of 12 stores done, 1 running, 0 waiting, 0 failed',
                      self.message())
        service = self.own.worker.service
        for pid in (service.pid, *service.worker_pids()):
            os.kill(pid, signal.SIGKILL)
        process.wait_for('port', lambda: process.is_free(service.port), 20)
        self.overrides.pop(SLOW)
        self.own.start()
        # What is located stays, and the rest is copied.
        self.api.wait(self.image_id, 'central', *STORES)
        self.assertEqual(STORES, self.pools.images(self.image_id))
        for pool in (STORES[0], SLOW, STORES[-1]):
            self.assertSame(self.data, self.pools.read(pool, self.image_id))
        self.api.images.delete(self.image_id)

    def message(self):
        """Return what the task says once it tells of those that are done."""
        def told():
            [message] = self.api.messages(self.image_id)[-1:]
            return message if ' 11 of 12 ' in message else None
        return process.wait_for('message', told, 30)
