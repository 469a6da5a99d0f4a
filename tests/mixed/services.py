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

"""Services that Glance has stores in, and what they hold."""

import contextlib
import pathlib

import fixtures
import rbd
import swiftclient

from lab import cinder
from lab import rabbitmq
from lab import swift
from lab import wsgi
from tests.functional.api import base

_REGION = 'central'
# The cluster that Cinder has its volumes in: no store of ours is there.
VOLUMES = 'dcn1'
_USER = 'openstack'
#: Bytes of a segment: glance_store's MB.
SEGMENT = 1000 << 10
# os-brick looks for keyrings in /etc/ceph alone: the Glance gets one of its
# own.
_ETC_CEPH = ('unshare', '--mount', 'sh', '-c',
             'mount --bind "$0" /etc/ceph && exec "$@"')


class Swift(fixtures.Fixture):
    """A Swift for as long as the fixture is used.

    :ivar service: the :class:`lab.swift.Swift`
    """

    def _setUp(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.service = swift.Swift(folder, base.lab().keystone, _REGION)
        self.addCleanup(self.service.stop)
        self.service.start()

    def store(self, **options):
        """Return the store, as :class:`lab.glance.Glance` takes it."""
        # Each image of some MiB has segments.
        return 'swift', self.service.store(**dict({
            'swift_store_large_object_size': 1,
            'swift_store_large_object_chunk_size': 1}, **options))

    def held(self, image_id):
        """Return the data of an image, None if there is nothing of it."""
        keystone = base.lab().keystone
        with contextlib.closing(swiftclient.Connection(
                session=keystone.session(
                    'glance', keystone.service_password, 'service'),
                os_options={'region_name': _REGION})) as connection:
            listed = None
            try:
                listed = connection.get_container(
                    'glance', prefix=image_id, full_listing=True)[1]
                if not listed:
                    return None
                # Segments without their manifest are an error.
                return connection.get_object('glance', image_id)[1]
            except swiftclient.ClientException as exc:
                if exc.http_status == 404 and not listed:
                    return None
                raise


class Cinder(fixtures.Fixture):
    """A Cinder for as long as the fixture is used.

    :ivar service: the :class:`lab.cinder.Cinder`
    """

    def _setUp(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        broker = rabbitmq.RabbitMQ(folder / 'rabbitmq')
        self.addCleanup(broker.stop)
        broker.start()
        self._cluster = base.lab().cluster(VOLUMES)
        self.service = cinder.Cinder(
            folder / 'cinder', base.lab().keystone, base.lab().database,
            broker.url, _REGION, {
                'volume_driver': 'cinder.volume.drivers.rbd.RBDDriver',
                'rbd_ceph_conf': self._cluster.conf,
                'rbd_cluster_name': VOLUMES,
                'rbd_user': _USER,
                'rbd_pool': 'volumes'})
        self.addCleanup(self.service.stop)
        self.service.start()

    @property
    def prefix(self):
        """Arguments of the program that starts a Glance with its store."""
        return (*_ETC_CEPH, str(self._cluster.conf.parent))

    def overrides(self):
        """Return options of a Glance with its store, by group."""
        # Tests run as root: nothing has to become it.
        return {'privsep_osbrick': {
            'helper_command': wsgi.BIN / 'privsep-helper'}}

    def store(self, **options):
        """Return the store, as :class:`lab.glance.Glance` takes it."""
        return 'cinder', self.service.store(**options)

    def held(self, image_id):
        """Return the data of an image, None if there is nothing of it."""
        volumes = self.service.client.volumes.list(
            search_opts={'name': 'image-%s' % image_id})
        if not volumes:
            return None
        volume, = volumes
        size = int(volume.metadata['image_size'])
        with self._cluster.pool('volumes') as ioctx:
            try:
                with rbd.Image(ioctx, 'volume-%s' % volume.id,
                               read_only=True) as image:
                    return image.read(0, size)
            except rbd.ImageNotFound:
                # Cinder is about to forget it.
                return b''
