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

"""An image is deleted from many stores at once: pools of a real cluster."""

from __future__ import annotations

from concurrent import futures
import contextlib
import json
import types
import typing

from glance import location as glance_location
from glance_store import exceptions
from glance_store import multi_backend
import rbd

from glance_dcn.ceph import omap
from glance_dcn.runtime import process
from glance_dcn.sites import home as homes
from glance_dcn.store import deletion
from glance_dcn.store import failures
from glance_dcn.tasks import store as task_store
from tests.functional.store import base

STORES = 30


def delete_image(uris: dict[str, str]) -> None:
    """Delete an image as Glance does.

    :param uris: of its locations, by store
    """
    places = [{'url': uri, 'metadata': {'store': store}, 'status': 'active'}
              for store, uri in uris.items()]
    glance_location.ImageProxy(types.SimpleNamespace(
        image_id='image', locations=places, delete=lambda: None), None, None,
        types.SimpleNamespace(
            delete_image_location_from_backend=lambda _context, _id, place:
            multi_backend.delete(place['url'],
                                 place['metadata']['store']))).delete()


class ManyStoresTest(base.StoreTestCase):
    """One image with locations in thirty stores."""

    driver = 'dcn'

    def setUp(self) -> None:
        super().setUp()
        self.name = self.image_name()
        connected = contextlib.ExitStack()
        self.addCleanup(connected.close)
        self.client = connected.enter_context(self.here.connect('admin'))
        self.client.conf_set('rbd_default_clone_format', '1')
        prefix = 'deletion-%s' % self.name[:8]
        self.pools = ['%s-%d' % (prefix, number) for number in range(STORES)]
        self.command('config set', who='mon', name='mon_allow_pool_delete',
                     value='true')
        self.in_each(self.make)
        self.addCleanup(self.in_each, self.remove)
        # Glance's user has rights in the pools of the lab alone.
        conf = self.directory / 'admin.conf'
        conf.write_text('%s\n[client.admin]\nkeyring = %s\n' % (
            self.here.conf.read_text(), self.client.conf_get('keyring')))
        self.use_stores(
            {pool: self.driver for pool in self.pools},
            **{pool: self.site(rbd_store_pool=pool, rbd_store_user='admin',
                               rbd_store_ceph_conf=conf)
               for pool in self.pools})
        # However slow the machine is.
        self.be_patient(120)

    def be_patient(self, seconds: float) -> None:
        process.put(deletion.Requests(deletion.Patience(
            together=seconds, decision=seconds)))

    def in_each(self, work: typing.Callable[[str], None]) -> None:
        with futures.ThreadPoolExecutor(STORES) as pool:
            list(pool.map(work, self.pools))

    def command(self, prefix: str, **arguments: typing.Any) -> None:
        code, _out, text = self.client.mon_command(json.dumps(
            dict(arguments, prefix=prefix)), b'')
        self.assertEqual(0, code, text)

    def make(self, pool: str) -> None:
        self.command('osd pool create', pool=pool, pg_num=1)
        with self.client.open_ioctx(pool) as ioctx:
            rbd.RBD().create(ioctx, self.name, base.MiB, old_format=False,
                             features=rbd.RBD_FEATURE_LAYERING)
            with rbd.Image(ioctx, self.name) as image:
                image.create_snap(base.SNAPSHOT)
                image.protect_snap(base.SNAPSHOT)

    def remove(self, pool: str) -> None:
        self.command('osd pool delete', pool=pool, pool2=pool,
                     yes_i_really_really_mean_it=True)

    def delete_image(self) -> None:
        delete_image({pool: self.uri(self.name, pool=pool)
                      for pool in self.pools})

    def holding(self) -> list[str]:
        """Return the pools that have the image, whole and protected."""
        found = []
        for pool in self.pools:
            with self.client.open_ioctx(pool) as ioctx:
                with contextlib.suppress(rbd.ImageNotFound), rbd.Image(
                        ioctx, self.name, read_only=True) as image:
                    if image.is_protected_snap(base.SNAPSHOT):
                        found.append(pool)
        return found

    def recorded(self) -> list[str]:
        """Return the stores that tasks are recorded for."""
        with self.client.open_ioctx(self.pools[0]) as ioctx:
            ioctx.set_namespace(homes.NAMESPACE)
            return sorted(key.split('/')[1] for key, _text in omap.walk(
                ioctx, task_store.OBJECT, 'site/'))

    def test_from_all_or_none(self) -> None:
        with self.client.open_ioctx(self.pools[17]) as ioctx:
            rbd.RBD().clone(ioctx, self.name, base.SNAPSHOT, ioctx, 'child')
            self.assertRaises(exceptions.InUseByStore, self.delete_image)
            self.assertEqual(self.pools, self.holding())
            rbd.RBD().remove(ioctx, 'child')
        # Sites that do not answer in time.
        self.be_patient(0)
        self.delete_image()
        recorded = self.recorded()
        self.assertGreater(len(recorded), 0)
        # What is not recorded was done, and what was begun may end as it
        # likes.
        self.assertEqual([], sorted(set(self.holding()) - set(recorded)))
        self.be_patient(120)
        self.delete_image_again()
        self.assertEqual([], self.holding())

    def delete_image_again(self) -> None:
        try:
            self.delete_image()
        except exceptions.NotFound:
            # At the first store, after all of them were asked.
            pass


class ReadOnlyTest(base.StoreTestCase):
    """An edge, whose key of central is good for reading alone."""

    driver = 'dcn'

    def test_nothing_is_removed(self) -> None:
        edge, data = self.cluster('dcn0'), b'x' * 1000
        name = self.new_image(self.here, edge)
        self.use_stores({'central': self.driver, 'dcn0': self.driver},
                        central=self.site(), dcn0=self.site(edge))
        uris = {store: self.add(data, name=name, store=store)[0]
                for store in ('dcn0', 'central')}
        self.use_stores({'dcn0': self.driver, 'central': self.driver},
                        central=self.site(rbd_store_user='glance-dcn0'),
                        dcn0=self.site(edge))
        error = self.assertRaises(failures.DeleteDenied, delete_image, uris)
        self.assertIn('ask the Glance of site central', error.msg)
        # Not with the error for the whole image, but with that of one store.
        self.assertRaises(failures.DeleteDenied, self.delete,
                          uris['central'], 'central')
        self.assertPublished(name, data, edge)
        self.assertPublished(name, data, self.here)
        self.delete(uris['dcn0'], 'dcn0')
        self.assertAbsent(name, edge)
