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

"""Records of another release, in real pools: shown, and left as they are."""

import json
import pathlib
import uuid

from glance_dcn.ceph import definitions
from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.ceph import records
from glance_dcn.imports import journal
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home as homes
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.workers import registry
from tests.functional.api import base
from tests.functional.operate import base as operate


class OtherReleaseTest(operate.CommandTestCase):
    """The commands of this release, and records of those before and after."""

    def setUp(self):
        super().setUp()
        self.deployment = uuid.uuid4().hex
        self.store = 'later-%s' % self.deployment[:8]
        self.etc = self.configured(
            dict(base.rbd_stores(), **{
                self.store: base.rbd_stores()['dcn0']}),
            {'glance_dcn': {'deployment_id': self.deployment}})
        self.ioctx = self.enterContext(self.cluster('central').pool())
        self.ioctx.set_namespace(homes.NAMESPACE)
        self.kept = {}

    def keep(self, name, key, record, version):
        """Keep a record as a release of another version would."""
        text = (record if isinstance(record, str)
                else record_format.dump(record, self.deployment))
        text = json.dumps(dict(json.loads(text), version=version, more=[]))
        self.kept[name, key] = text
        omap.put(self.ioctx, name, {key: text})
        self.addCleanup(self.drop, name, key)

    def drop(self, name, key):
        with self.cluster('central').pool() as ioctx:
            ioctx.set_namespace(homes.NAMESPACE)
            omap.remove(ioctx, name, key)

    def assertLeft(self):
        self.assertEqual(self.kept, {
            (name, key): omap.get(self.ioctx, name, key)
            for name, key in self.kept})

    def test_tasks(self):
        for version, image in ((1, uuid.uuid4()), (3, uuid.uuid4())):
            for record in (
                    tasks.Task(tasks.Action.DELETE, 'dcn0', str(image),
                               'images', image_id='1'),
                    tasks.Intent('dcn0', str(image), 'images', None, 'w', '')):
                self.keep(stores.OBJECT, record.key, record, version)
        code, out, _seconds = self.run_command(self.etc, 'task', 'list')
        self.assertEqual(1, code, out)
        self.assertEqual(2, out.count('version 1'), out)
        self.assertEqual(2, out.count('a later release has to act upon it'))
        code, out, _seconds = self.run_command(
            self.etc, 'task', 'show', str(image))
        self.assertEqual((1, 2), (code, out.count('version 3')), out)
        code, out, _seconds = self.run_command(
            self.etc, 'status', '--format', 'json')
        self.assertEqual((1, {'central': 0, 'dcn0': 4, 'dcn1': 0}), (code, {
            site['name']: site['unreadable'] for site
            in self.json_of(out)['sites'] if site['name'] != self.store}))
        code, out, _seconds = self.run_command(
            self.etc, 'check', '--site', 'central', '--only', 'records')
        self.assertIn('4 records are unreadable', out)
        # The task runner leaves them alone, and says so.
        code, out, _seconds = self.run_command(self.etc, 'task', 'run')
        self.assertEqual((1, 4), (code, out.count('is left alone')), out)
        self.assertLeft()

    def test_workers(self):
        worker = registry.Worker(str(uuid.uuid4()), 'central')
        entry = journal.Entry(str(uuid.uuid4()), str(uuid.uuid4()),
                              'copy-image', ['dcn0'], '/x', journal.COPYING)
        self.keep(registry.OBJECT, worker.key, worker, 3)
        self.keep(registry.OBJECT, 'task/%s/%s' % (
            worker.identity, entry.task), entry.text(), 3)
        code, out, _seconds = self.run_command(self.etc, 'worker', 'list')
        self.assertEqual(1, code)
        for name in (worker.key, entry.task):
            self.assertRegex(out, '%s is left alone: .* version 3' % name)
        self.assertLeft()

    def test_journal(self):
        staging = self.etc.parent / 'staging'
        made = journal.Journal(str(staging))
        held = made.begin(journal.Entry(
            str(uuid.uuid4()), str(uuid.uuid4()), 'copy-image', ['dcn0'],
            '/x', journal.COPYING))
        held.release()
        path = pathlib.Path(made.folder, held.entry.task + '.json')
        text = path.read_text().replace('"version": 2', '"version": 3')
        path.write_text(text)
        code, _out, _seconds = self.run_command(self.etc, 'worker', 'recover')
        self.assertEqual((1, text), (code, path.read_text()))

    def test_cluster_that_is_accepted(self):
        identity = cluster_identity.ClusterIdentity(base.SOME_FSID, 1, ('a',))
        self.keep(cluster_identity.OBJECT, self.store, identity, 3)
        code, out, _seconds = self.run_command(
            self.etc, 'site', 'accept', self.store)
        self.assertEqual(2, code)
        self.assertIn('run the command of that release', out)
        self.assertLeft()

    def test_sites(self):
        name = 'test-' + self.deployment
        self.keep(definitions.OBJECT, 'site/' + name,
                  definitions._Options({'x': '"y"'}), 3)
        found = definitions.Definitions('central', self.ioctx,
                                        self.deployment).load()
        self.assertIn('version 3', found.of_other_release[name])
        self.assertNotIn(name, found.sites)

    def test_key_of_the_deployment(self):
        """One that this release cannot read is not replaced."""
        site = self.cluster('dcn1')
        with site.pool() as ioctx:
            ioctx.set_namespace('key-' + self.deployment)
            omap.put(ioctx, 'deployment', {'key': 'v2:something'})
            self.assertEqual('v2:something', homes._make_key(ioctx))
            ioctx.remove_object('deployment')

    def test_content(self):
        image = self.image_name()
        self.make_published(image, base.random_data(), 'dcn0')
        self.addCleanup(base.purge, self.cluster('dcn0'), image)
        record = records.Record(1, 'x', {})
        with self.rbd_image('dcn0', image) as opened:
            for version, kept in ((2, True), (0, False)):
                text = json.dumps(dict(
                    json.loads(records.compose(record, opened.id())),
                    version=version))
                opened.metadata_set(records.KEY, text)
                self.assertIsNone(records.load(opened))
                records.save_unless_later(opened, record)
                self.assertIs(kept, opened.metadata_get(records.KEY) == text)
            self.assertEqual(record, records.load(opened))
