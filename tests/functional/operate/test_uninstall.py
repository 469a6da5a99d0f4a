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

"""Whether stock Glance could take over, and that it can when that is said."""

import pathlib

import fixtures

from glance_dcn.ceph import name_lock
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.imports import journal
from glance_dcn.sites import home as homes
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from lab import deployment
from tests.functional.api import base
from tests.functional.api import stock
from tests.functional.operate import base as operate


class UninstallTest(operate.CommandTestCase):

    def check(self, etc):
        """Return the exit status and what is shown as JSON."""
        code, out, _seconds = self.run_command(
            etc, 'uninstall', '--check', '--format', 'json')
        return code, self.json_of(out)

    def test_stock_takes_over(self):
        own = self.useFixture(base.OwnGlance(
            base.rbd_stores(), overrides={'image_import_opts': {
                'image_import_plugins': deployment.IMPORT_PLUGINS}}))
        data = base.random_data()
        image = self.uploaded(self.use_own(own), data, *base.SITES)
        own.worker.stop()
        etc = own.worker.etc
        self.home = self.enterContext(self.cluster('central').pool())
        self.home.set_namespace(homes.NAMESPACE)
        self._refuses(own, image)
        self._allows(etc, image)
        taken_over = self.useFixture(stock.StockGlance(
            stock.stores(), database=own.database_url))
        self.assertNotIn('dcn', taken_over.installed()['drivers'])
        for site in base.SITES:
            self.assertSame(data, taken_over.api.download(image, prefer=site))
        taken_over.api.images.delete(image)
        self.assertNoTrace(image, *base.SITES)

    def _refuses(self, own, image):
        """It has just been written, and an import was interrupted."""
        task = tasks.Task(tasks.Action.DELETE, 'dcn0', image, 'images',
                          image_id='another')
        omap.put(self.home, stores.OBJECT, {task.key: stores.TaskStore(
            homes.Home(), base.deployment_id(own.database_url)).text(task)})
        journal.Journal(str(own.worker.staging)).begin(journal.Entry(
            self.image_name(), self.image_name(), 'copy-image', ['dcn0'],
            '/x', journal.COPYING)).release()
        code, found = self.check(own.worker.etc)
        self.assertEqual((1, False), (code, found['ready']))
        for text in ('1 deferred tasks', ' writes of images go on',
                     'the journal of', image):
            self.assertIn(text, str(found['first']))
        self.assertEqual(
            ['[DEFAULT] enabled_backends = central:rbd, dcn0:rbd, dcn1:rbd',
             '[image_import_opts] image_import_plugins = [image_conversion]'],
            found['change'])

    def _allows(self, etc, image):
        """All that is done, and what it says is left is what is left."""
        code, _out, _seconds = self.run_command(etc, 'worker', 'recover')
        self.assertEqual(0, code)
        # The task is void. The location would have to last for a minute.
        self.run_command(etc, 'task', 'run')
        for key, _text in list(omap.walk(self.home, stores.OBJECT, 'site/')):
            if image in key:
                self.assertIn('/intent/', key)
                omap.remove(self.home, stores.OBJECT, key)
        code, found = self.check(etc)
        self.assertEqual((0, []), (code, found['first']), found)
        left = str(found['left'])
        for site in base.SITES:
            with self.cluster(site).pool() as ioctx:
                self.assertEqual({name_lock.OBJECT}, {
                    item.key for item in ioctx.list_objects()
                    if item.key.startswith('glance_dcn')})
            with self.rbd_image(site, image) as opened:
                self.assertEqual([records.KEY], [
                    key for key, _value in opened.metadata_list()])
            self.assertIn('store %s: object %s' % (site, name_lock.OBJECT),
                          left)
        for item in self.home.list_objects():
            # Other tests make and remove those of workers.
            if not item.key.startswith('worker.'):
                self.assertIn(item.key, left)

    def test_database_that_cannot_be_read(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        code, found = self.check(self.configured(
            base.rbd_stores(), {'database': {
                'connection': 'sqlite:////%s/none/glance.sqlite' % folder}}))
        self.assertEqual((3, False), (code, found['ready']))
        self.assertIn('the database of Glance', str(found['unread']))
