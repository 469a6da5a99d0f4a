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

"""A fourth site comes to a running Glance of two processes, and goes again."""

import os
import time

from glance_dcn.ceph import definitions
from glance_dcn.sites import home
from lab import glance
from lab import process
from tests.functional.api import base

NAME = 'dcn7'


class SitesDirTest(base.OwnGlanceTestCase):
    """Site files of a Glance with two processes, at a cluster of their own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = cls.make_folder() / 'sites'
        cls.folder.mkdir(mode=0o755)
        # The conf file and keyrings are where those of the others are.
        cls.edge = cls.start_clusters(
            NAME, etc=base.lab().cluster('central').etc)[NAME]
        cls.start_own(
            base.rbd_stores(sites=['central', 'dcn0']), overrides={
                'glance_dcn': {'sites_dir': cls.folder},
                'dcn0': {'dcn_bandwidth_limit': 1}}, processes=2)

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def cluster(self, site):
        return self.edge if site == NAME else super().cluster(site)

    def site_file(self, name=NAME, **options):
        """Return the text of a site file."""
        options = glance.rbd_store(self.edge, **options)
        return '[%s]\n' % name + ''.join('%s = %s\n' % item
                                         for item in options.items())

    def put(self, text, name=NAME, mode=0o644, age=60):
        """Put a file into the folder, as a careful tool does.

        :param age: seconds since it was written; of late, it might be half
            written
        """
        path = self.folder / ('.%s.new' % name)
        path.write_text(text)
        path.chmod(mode)
        os.utime(path, (time.time() - age,) * 2)
        path.rename(self.folder / ('%s.conf' % name))

    def lines(self, *words):
        """Return the lines of Glance's log that have all these words."""
        return [line for line in self.own.log.splitlines()
                if all(word in line for word in words)]

    def wait_logged(self, *words, seconds=30):
        """Wait until each process has logged a line of these words."""
        pids = {str(pid) for pid in self.own.worker.service.worker_pids()}
        self.assertEqual(2, len(pids))

        def logged():
            return pids <= {line.split()[2] for line in self.lines(*words)}
        process.wait_for('log: %s' % ' '.join(words), logged, seconds)

    def wait_gone(self, seconds=60):
        def gone():
            # Each answer may come from another process.
            return not any(NAME in self.api.stores() for _ in range(10))
        process.wait_for('end of the store', gone, seconds)

    def test_comes_serves_and_goes(self):
        self.assertNotIn(NAME, self.api.stores())
        self.put(self.site_file(weight=7, store_description='a new site',
                                dcn_surprise=1), age=0)
        started = time.monotonic()
        self.wait_logged('Site %s has a file' % NAME)
        self.assertLess(time.monotonic() - started, 30)
        self.assertTrue(self.lines('WARNING', NAME, "'dcn_surprise'"))
        self._is_listed()
        imported = self._is_used()
        self._follows_the_file()
        self._is_taken_away(imported)
        self.own.worker.stop()
        self.own.start()
        self.wait_logged('Site %s was taken away' % NAME)
        self._serves_what_it_holds(imported)
        self._is_dropped(imported)

    def _is_listed(self):
        for _ in range(10):
            self.assertEqual({'id': NAME, 'description': 'a new site'},
                             self.api.stores()[NAME])
        detail = self.api.stores(detail=True)[NAME]
        self.assertEqual(('rbd', 7, self.edge.fsid),
                         (detail['type'], detail['weight'],
                          detail['properties']['fsid']))

    def _is_used(self):
        imported = self.uploaded(self.api, self.data, 'central', NAME)
        self.assertStored(imported, self.data, 'central', NAME)
        self.assertLocated(self.api.images.get(imported), 'central', NAME)
        copied = self.uploaded(self.api, self.data, 'dcn0')
        self.api.images.image_import(copied, 'copy-image', stores=[NAME])
        self.api.wait(copied, 'dcn0', NAME)
        self.assertStored(copied, self.data, NAME)
        self.assertSame(self.data, self.api.download(copied, prefer=NAME))
        # A location there is known to be the site's.
        nova = self.image_name()
        self.make_published(nova, self.data, NAME)
        image = self.new_image(self.api)
        self.assertEqual(200, self.api.add_location(
            image, self.location(NAME, nova)).status_code)
        found = self.api.images.get(image)['locations']
        self.assertEqual([NAME], [one['metadata']['store'] for one in found])
        for image_id in (copied, image):
            self.api.images.delete(image_id)
        self.assertNoTrace(copied, 'dcn0', NAME)
        self.assertNoTrace(nova, NAME)
        return imported

    def _follows_the_file(self):
        self.put(self.site_file(weight=3, store_description='$debug'))
        self.wait_logged('The file of site %s has changed' % NAME)
        for _ in range(10):
            self.assertEqual('$debug',
                             self.api.stores()[NAME]['description'])
        self.assertEqual(3, self.api.stores(detail=True)[NAME]['weight'])

    def _is_taken_away(self, imported):
        (self.folder / ('%s.conf' % NAME)).unlink()
        self.wait_logged('The file of site %s was taken away' % NAME)
        self._serves_what_it_holds(imported)

    def _serves_what_it_holds(self, imported):
        for _ in range(10):
            self.assertEqual('true', self.api.stores()[NAME]['read-only'])
        self.assertEqual('http', self.api.stores(detail=True)[NAME]['type'])
        self.assertSame(self.data, self.api.download(imported, prefer=NAME))
        self.assertLocated(self.api.images.get(imported), 'central', NAME)
        # It is none of "all stores".
        everywhere = self.new_image(self.api)
        self.api.stage(everywhere, self.data)
        self.api.images.image_import(everywhere, 'glance-direct',
                                     all_stores=True)
        self.api.wait(everywhere, 'central', 'dcn0')
        # Nor a target, when named.
        self.api.images.image_import(everywhere, 'copy-image', stores=[NAME],
                                     allow_failure=True)
        self.api.wait(everywhere, 'central', 'dcn0', failed=[NAME])
        self.assertIn('it takes no new images, because its site was taken '
                      'away', str(self.api.tasks(everywhere)))
        upload = self.new_image(self.api)
        self.assertEqual(410, self.api.request(
            'PUT', '/v2/images/%s/file' % upload, data=self.data, headers={
                'Content-Type': 'application/octet-stream',
                'X-Image-Meta-Store': NAME}).status_code)
        self.assertTrue(self.lines('it takes no new images'))
        self.assertNoTrace(upload, NAME)
        self._takes_no_http_location()

    def _takes_no_http_location(self):
        # To Glance it is of type http; that must open no door.
        for metadata in ({}, {'store': NAME}):
            image = self.new_image(self.api)
            answer = self.api.add_location(
                image, 'http://127.0.0.1:%d/' % self.own.worker.service.port,
                **metadata)
            self.assertEqual(400, answer.status_code)

    def _is_dropped(self, imported):
        self.assertIn(NAME, self.api.stores())
        self.api.images.delete(imported)
        self.assertNoTrace(imported, 'central', NAME)
        self.wait_gone()
        with self.cluster('central').pool() as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            names = {item.key for item in ioctx.list_objects()}
        self.assertIn(definitions.OBJECT, names)
        upload = self.new_image(self.api)
        self.api.stage(upload, self.data)
        answer = self.api.request(
            'POST', '/v2/images/%s/import' % upload, json={
                'method': {'name': 'glance-direct'}, 'stores': [NAME]})
        self.assertEqual(409, answer.status_code)

    def test_unsafe_and_broken_files_disturb_nobody(self):
        good = self.site_file('good')
        self.put(self.site_file('writable'), 'writable', mode=0o666)
        self.put(self.site_file('foreign'), 'foreign')
        os.chown(self.folder / 'foreign.conf', 65534, -1)
        self.put(self.site_file('other'), 'named')
        self.put(good + '#' * (65 << 10), 'large')
        self.put('\x00\x01', 'binary')
        self.put('what is this?\n', 'text')
        self.put(self.site_file('value', weight='heavy'), 'value')
        self.put(self.site_file('central'), 'central')
        self.put(self.site_file('database'), 'database')
        self.put(self.site_file('os_glance_x'), 'os_glance_x')
        self.put(self.site_file('a b'), 'a b')
        (self.folder / 'folder.conf').mkdir()
        os.mkfifo(self.folder / 'pipe.conf', 0o600)
        for name in ('folder', 'pipe'):
            os.utime(self.folder / ('%s.conf' % name), (1, 1))
        (self.folder / 'dangling.conf').symlink_to('nowhere')
        self.put(good, 'good')
        self.addCleanup(self._clear)
        self.wait_logged('Site good has a file')
        for name, reason in {
                'writable': 'chmod', 'foreign': 'owner', 'named': 'section',
                'large': '64 KiB', 'binary': 'no text', 'text': 'line 1',
                'value': 'weight', 'central': 'enabled_backends',
                'database': 'of Glance itself', 'os_glance_x': 'Glance\'s own',
                'a b': 'cannot be the name', 'folder': 'no regular file',
                'pipe': 'no regular file', 'dangling': 'No such file'}.items():
            found = self.lines('ERROR', '/%s.conf is not taken' % name)
            self.assertEqual(2, len(found), name)
            self.assertIn(reason, found[0])
        self.assertEqual({'central', 'dcn0', 'good'},
                         set(self.api.stores()) - {NAME})
        image = self.uploaded(self.api, self.data, 'good', 'central')
        self.assertSame(self.data, self.api.download(image, prefer='good'))
        self.api.images.delete(image)

    def _clear(self):
        for path in self.folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()

    def test_bandwidth_follows_the_configuration(self):
        image = self.new_image(self.api)
        self.api.stage(image, os.urandom(160 * base.MiB))
        started = time.monotonic()
        self.api.images.image_import(image, 'glance-direct', stores=['dcn0'])
        time.sleep(4)
        path = self.own.worker.etc / 'glance-api.conf'
        path.write_text(path.read_text().replace(
            'dcn_bandwidth_limit = 1\n', 'dcn_bandwidth_limit = 500\n'))
        self.wait_logged('Option dcn0.dcn_bandwidth_limit changed', '500')
        self.api.wait(image, 'dcn0')
        taken = time.monotonic() - started
        # Neither at full speed, nor at 1 MiB/s to the end: that takes 160 s.
        self.assertTrue(4 < taken < 150, taken)
