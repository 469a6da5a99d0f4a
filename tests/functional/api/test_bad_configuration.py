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

"""Stores that are not as they should be, beside one that is."""

import time

from lab import glance
from tests.functional.api import base

# A Glance that waited for a cluster as it starts would be noticed.
_CONNECT_TIMEOUT = 45


def _bad_stores(folder):
    """Return stores with one thing wrong each, and what to say of them.

    :param folder: where their conf files and keyrings are written
    :returns: (stores as OwnGlance takes them, dict of the words that an
              error of a store must have)
    """
    cluster = base.lab().cluster('dcn0')
    good = cluster.conf.read_text()
    keyring = str(cluster.keyring('glance'))

    def conf(name, text):
        (folder / name).write_text(text)
        return {'rbd_store_ceph_conf': folder / name}

    no_file = folder / 'nowhere.conf'
    unreadable = folder / 'nowhere.keyring'
    stores = {
        'noconf': {'rbd_store_ceph_conf': no_file},
        'nopool': {'rbd_store_pool': 'no-such-pool'},
        'nouser': dict(
            conf('nouser.conf', '%s\n[client.nobody]\nkeyring = %s\n' % (
                good, cluster.keyring('openstack'))),
            rbd_store_user='nobody'),
        'nokeyring': conf('nokeyring.conf', good.replace(
            keyring, str(unreadable))),
        'othersite': conf('othersite.conf', good.replace(
            cluster.fsid, base.lab().cluster('dcn1').fsid)),
    }
    words = {
        'noconf': ('rbd_store_ceph_conf', str(no_file)),
        'nopool': ('rbd_store_pool', 'no-such-pool'),
        'nouser': ('rbd_store_user', 'client.nobody'),
        'nokeyring': ('keyring', str(unreadable)),
        'othersite': ('rbd_store_ceph_conf', cluster.fsid),
    }
    stores = {name: ('dcn', glance.rbd_store(cluster, **dict(
        {'rados_connect_timeout': _CONNECT_TIMEOUT}, **options)))
        for name, options in stores.items()}
    return stores, words


class BadConfigurationTest(base.OwnGlanceTestCase):
    """One good store, one whose site is away, and all kinds of bad ones."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.make_folder()
        bad, cls.words = _bad_stores(folder)
        away = folder / 'away.conf'
        # Packets to this address (RFC 5737) are answered by nobody.
        away.write_text('[global]\nfsid = %s\nmon_host = v2:192.0.2.1:3300\n'
                        '[client.glance]\nkeyring = %s\n' % (
                            base.SOME_FSID,
                            base.lab().cluster('dcn0').keyring('glance')))
        stores = dict(bad, away=('dcn', glance.rbd_store(
            base.lab().cluster('dcn0'), rbd_store_ceph_conf=away,
            rados_connect_timeout=_CONNECT_TIMEOUT)))
        # The good one comes last: nobody in front of it may take what is its.
        stores.update(base.rbd_stores(sites=['central']))
        started = time.monotonic()
        cls.start_own(stores)
        cls.seconds = time.monotonic() - started

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def test_starts_without_waiting(self):
        self.assertLess(self.seconds, _CONNECT_TIMEOUT / 2)

    def test_all_are_listed(self):
        names = {'central', 'away', *self.words}
        self.assertEqual(names, set(self.api.stores()))
        started = time.monotonic()
        details = self.api.stores(detail=True)
        self.assertLess(time.monotonic() - started, _CONNECT_TIMEOUT / 2)
        self.assertEqual(names, set(details))
        self.assertEqual(
            (self.cluster('central').fsid, base.SOME_FSID, None),
            tuple(details[store]['properties']['fsid']
                  for store in ('central', 'away', 'noconf')))

    def test_the_good_one_serves(self):
        image_id = self.new_image(self.api)
        self.api.upload(image_id, self.data)
        self.assertStored(image_id, self.data, 'central')
        self.assertSame(self.data, self.api.download(image_id))
        self.api.images.delete(image_id)
        self.assertNoTrace(image_id, 'central')

    def test_import_to_each(self):
        image_id = self.new_image(self.api)
        self.api.stage(image_id, self.data)
        self.api.images.image_import(
            image_id, 'glance-direct', stores=[*self.words, 'central'],
            allow_failure=True)
        self.api.wait(image_id, 'central', failed=self.words)
        self.assertStored(image_id, self.data, 'central')
        self.assertNoTrace(image_id, 'dcn0', 'dcn1')
        for store, words in self.words.items():
            self.assertLogged(store, *words)

    def test_copy_to_each(self):
        image_id = self.uploaded(self.api, self.data, 'central')
        self.api.images.image_import(image_id, 'copy-image',
                                     stores=list(self.words),
                                     allow_failure=True)
        self.api.wait(image_id, 'central', failed=self.words)
        self.assertSame(self.data, self.api.download(image_id))

    def test_upload_to_each(self):
        for store, words in self.words.items():
            image_id = self.new_image(self.api)
            answer = self.api.request(
                'PUT', '/v2/images/%s/file' % image_id, data=self.data,
                headers={'Content-Type': 'application/octet-stream',
                         'x-image-meta-store': store})
            self.assertGreaterEqual(answer.status_code, 400, store)
            self.assertEqual('queued',
                             self.api.images.get(image_id)['status'])
            self.assertLogged(store, *words)

    def test_location_without_a_store_goes_to_the_right_one(self):
        # What a store with no fsid must not do is to take all locations.
        image_id = self.new_image(self.api)
        self.make_published(image_id, self.data, 'central')
        answer = self.api.add_location(
            image_id, self.location('central', image_id))
        self.assertEqual(200, answer.status_code, answer.text)
        self.assertLocated(self.api.images.get(image_id), 'central')

    def assertLogged(self, store, *words):
        """A line of the log names a store, and has some words."""
        for line in self.own.log.splitlines():
            if all(word in line for word in ('store %s' % store, *words)):
                return
        self.fail('no line of the log has store %s and %s'
                  % (store, ', '.join(words)))
