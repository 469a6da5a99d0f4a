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

import dataclasses
import json

import fixtures

from glance_dcn.ceph import definitions
from glance_dcn.runtime import lead as leads
from glance_dcn.store import site_registry
from glance_dcn.tasks import task as tasks
from tests.unit.store import sites
from tests.unit.tasks import fakes


class FakeDefinitions:
    """The record in memory; what it does in RADOS is tested functionally."""

    def __init__(self, known, others):
        self.known, self.others = known, others

    def load(self):
        return definitions.Recorded({
            name: definitions.Definition(dict(one.options), dict(one.holders))
            for name, one in self.known.items()}, dict(self.others))

    def save(self, name, options):
        self.known.setdefault(
            name, definitions.Definition({})).options = dict(options)

    def hold(self, name, host, seconds):
        self.known[name].holders[host] = seconds

    def release(self, name, host):
        self.known[name].holders.pop(host, None)

    def forget(self, name, hosts=()):
        self.known.pop(name)


class TestRecordCase(sites.SitesCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakes.MemoryCluster())
        self.cluster = fakes.Site('central')
        self.known, self.others = {}, {}
        self.empty = False
        self.now = 1000000

    def host(self, name='host', **kwargs):
        """Start the Glance of a host; return what keeps its record."""
        watch = self.start()
        self.tasks.add(self.cluster, home=True)
        watch.registry = site_registry.SiteRegistry(
            watch.stores, watch.registry._sites, self.tasks, name,
            lambda: self.now, records=lambda *unused: FakeDefinitions(
                self.known, self.others),
            **{'is_empty': lambda site: self.empty, **kwargs})
        watch.poll()
        return watch

    def exchange(self, watch, times=1):
        for _ in range(times):
            watch.registry.exchange(watch._home_site() and self.cluster)

    def take_away(self, watch):
        (self.folder / 'dcn7.conf').unlink()
        watch.poll()
        watch.poll()

    def options(self):
        """Return the options of a site whose file is gone."""
        return {'rbd_store_ceph_conf': str(self.ceph_conf('dcn7'))}


class TestRecord(TestRecordCase):

    def test_recorded_and_held(self):
        self.put(weight=3)
        self.exchange(self.host())
        self.assertEqual(['dcn7'], list(self.known))
        self.assertEqual('3', self.known['dcn7'].options['weight'])
        self.assertEqual({'host': self.now}, self.known['dcn7'].holders)

    def test_of_another_release_is_neither_overwritten_nor_dropped(self):
        self.put(weight=3)
        watch = self.host()
        self.exchange(watch)
        self.known.pop('dcn7')
        self.others['dcn7'] = 'it is of version 3'
        self.now += 900
        log = self.useFixture(fixtures.FakeLogger())
        self.exchange(watch, 3)
        self.assertEqual({}, self.known)
        self.assertEqual(1, log.output.count('it is of version 3'))
        self.take_away(watch)
        self.empty = True
        self.exchange(watch, 3)
        self.assertIn('dcn7', watch.stores.entries)
        # Once it can be read again, it goes on.
        self.others.clear()
        self.exchange(watch, 3)
        self.assertNotIn('dcn7', watch.stores.entries)

    def test_follows_the_file(self):
        self.put(weight=3)
        watch = self.host()
        self.exchange(watch)
        self.put(weight=4)
        watch.poll()
        self.exchange(watch)
        self.assertEqual('4', self.known['dcn7'].options['weight'])

    def test_says_again_that_it_holds_it(self):
        self.put()
        watch = self.host()
        for later, expected in ((0, 0), (100, 0), (900, 900)):
            self.now = 1000000 + later
            self.exchange(watch)
            self.assertEqual({'host': 1000000 + expected},
                             self.known['dcn7'].holders)

    def test_serves_after_a_restart(self):
        self.put()
        watch = self.host()
        self.exchange(watch)
        self.take_away(watch)
        self.exchange(watch)
        self.assertEqual({}, self.known['dcn7'].holders)
        watch = self.host()
        self.assertEnabled()
        self.exchange(watch)
        self.assertEnabled(dcn7='http')
        self.assertTrue(self.store().site.retired)

    def test_taken_away_while_glance_was_down(self):
        self.put()
        self.exchange(self.host())
        (self.folder / 'dcn7.conf').unlink()
        watch = self.host()
        self.exchange(watch)
        self.assertEnabled(dcn7='http')
        self.assertEqual({}, self.known['dcn7'].holders)

    def test_file_that_became_unusable_while_glance_was_down(self):
        self.put()
        self.exchange(self.host())
        self.put(rbd_store_chunk_size='heavy')
        watch = self.host()
        self.exchange(watch)
        # It is there, so it is not for us to say that it is gone.
        self.assertEnabled()
        self.assertEqual({'host'}, set(self.known['dcn7'].holders))

    def test_dropped_when_empty(self):
        self.put()
        watch = self.host()
        self.exchange(watch)
        self.take_away(watch)
        self.exchange(watch, 3)
        self.assertEnabled(dcn7='http')
        self.empty = True
        self.exchange(watch)
        # An upload may be about to create its image.
        self.assertEnabled(dcn7='http')
        self.exchange(watch)
        self.assertEnabled()
        self.assertEqual({}, self.known)
        self.exchange(watch, 3)
        self.assertEnabled()

    def test_site_that_hangs_is_not_waited_for(self):
        def is_empty(ioctx):
            if not ioctx.site.calls:
                raise AssertionError('it is waited for without end')
            return True
        self.useFixture(fixtures.MonkeyPatch(
            'glance_dcn.ceph.images.is_empty', is_empty))
        self.put()
        watch = self.host(is_empty=site_registry.is_empty)
        self.exchange(watch)
        site = fakes.Site('dcn7')
        watch.stores.entries['dcn7'].store.site = site
        self.take_away(watch)
        site.away()
        self.exchange(watch, 3)
        self.assertEnabled(dcn7='http')
        site.back()
        self.exchange(watch, 2)
        self.assertEnabled()

    def test_not_dropped_while_there_are_tasks(self):
        self.put()
        watch = self.host()
        self.take_away(watch)
        self.empty = True
        task = tasks.Task(tasks.Action.PURGE, 'dcn7', 'image', 'images',
                          image_id='1')
        self.tasks.store.put(task)
        self.exchange(watch, 4)
        self.assertEnabled(dcn7='http')
        self.tasks.store.remove(task)
        self.tasks.store.put(dataclasses.replace(task, site='dcn8'))
        self.exchange(watch, 2)
        self.assertEnabled()

    def test_not_dropped_while_there_is_a_file(self):
        self.put()
        watch = self.host()
        self.empty = True
        self.exchange(watch, 4)
        self.assertEnabled(dcn7='rbd')

    def test_not_dropped_while_another_host_has_the_file(self):
        self.put()
        watch = self.host()
        self.exchange(watch)
        self.known['dcn7'].holders['other'] = self.now
        self.take_away(watch)
        self.empty = True
        self.exchange(watch, 4)
        self.assertEnabled(dcn7='http')
        # That host has not been heard of for long.
        self.now += 7200
        self.exchange(watch, 2)
        self.assertEnabled()

    def test_dropped_by_another_process(self):
        self.put()
        watch = self.host()
        self.exchange(watch)
        self.take_away(watch)
        self.exchange(watch)
        self.known.clear()
        self.exchange(watch)
        self.assertEnabled()

    def test_recorded_late(self):
        # The default store's cluster was down all the time.
        self.put()
        watch = self.host()
        self.cluster.away()
        self.exchange(watch, 3)
        self.assertEqual(1, self.log.output.count('cannot be kept for now'))
        self.take_away(watch)
        self.cluster.back()
        self.exchange(watch)
        self.assertEnabled(dcn7='http')
        self.assertEqual(['dcn7'], list(self.known))

    def test_site_that_another_host_has(self):
        self.known['dcn8'] = definitions.Definition(
            {'rbd_store_ceph_conf': str(self.ceph_conf('dcn8'))},
            {'other': self.now})
        watch = self.host()
        self.exchange(watch)
        self.assertEnabled(dcn8='http')

    def test_record_is_not_trusted(self):
        # Nova and Cinder may write to the pool it is in.
        away = self.root / 'staging'
        away.mkdir()
        (away / 'image').write_text('[global]\n')
        self.known.update({
            'evil': definitions.Definition(
                {'rbd_store_ceph_conf': str(away / 'image')}),
            'central': definitions.Definition({}),
            'glance_store': definitions.Definition({}),
            '../x': definitions.Definition({}),
            'bad': definitions.Definition({
                'rbd_store_chunk_size': 'heavy'})})
        watch = self.host()
        self.exchange(watch, 2)
        self.assertEnabled()
        for words in ('evil', 'in none of the folders', 'glance_store',
                      'rbd_store_chunk_size'):
            self.assertIn(words, self.log.output)
        self.assertEqual(
            1, self.log.output.count('in none of the folders'))

    def test_one_that_is_not_empty_for_long_is_inspected_less_often(self):
        now = [1000.0]
        inspected = []
        self.put()
        watch = self.host(monotonic=lambda: now[0],
                          is_empty=lambda site: inspected.append(now[0]))
        self.take_away(watch)
        for _ in range(360):
            now[0] += 10
            self.exchange(watch)
        # Each time at first, and about every tenth minute after an hour.
        self.assertGreater(len(inspected), 10)
        self.assertLess(len(inspected), 40)
        self.assertEqual([10] * 4, [
            after - before for before, after in zip(inspected[:4],
                                                    inspected[1:5])])
        self.assertGreater(inspected[-1] - inspected[-2], 400)

    def test_folder_that_cannot_be_told(self):
        self.put()
        self.exchange(self.host())
        self.folder.chmod(0o777)
        watch = self.host()
        self.exchange(watch, 3)
        self.assertEqual({'host'}, set(self.known['dcn7'].holders))
        self.assertEnabled()

    def test_default_store_that_is_no_dcn_store(self):
        path = self.put()
        watch = self.host()
        path.unlink()
        watch.poll()
        watch.poll()
        watch.registry.exchange(None)
        self.assertEnabled(dcn7='http')
        self.assertIn('No dcn store of enabled_backends', self.log.output)
        self.empty = True
        watch.registry.exchange(None)
        watch.registry.exchange(None)
        self.assertEnabled()


class Lead(leads.Lead):
    """The lead of a host, of which the tests are the leader's files."""

    left = None

    def publish(self, name, text):
        self.left = text

    def published(self, name):
        return self.left


class Follower(Lead):
    """The lead, where another process has it."""

    is_held = False


class TestSiblings(TestRecordCase):
    """Processes that do not lead follow what the leader leaves."""

    def setUp(self):
        super().setUp()
        self.lead = Lead()

    def follower(self):
        """Start a Glance whose leader is another process."""
        watch = self.host()
        self.tasks.lead = self.lead
        watch.poll()
        return watch

    def test_site_that_was_taken_away_before(self):
        watch = self.follower()
        self.lead.left = json.dumps({'dcn7': self.options()})
        watch.registry.follow()
        self.assertEnabled(dcn7='http')
        # The leader has found it empty, or another host has.
        self.lead.left = '{}'
        watch.registry.follow()
        self.assertEnabled()
        self.assertEqual({}, self.known)

    def test_starts_before_its_stores_are_there(self):
        # What is recorded would be refused, for it is compared with them.
        lead = Follower()
        lead.left = json.dumps({'dcn7': self.options()})
        self.tasks.lead = lead
        watch = self.start()
        self.assertEnabled()
        self.assertNotIn('cannot be served', self.log.output)
        watch.poll()
        self.assertEnabled(dcn7='http')

    def test_site_whose_file_is_here(self):
        self.put()
        watch = self.follower()
        self.lead.left = json.dumps({'dcn7': self.options()})
        watch.registry.follow()
        self.assertEnabled(dcn7='rbd')

    def test_leader_leaves_what_is_recorded(self):
        self.put(weight=3)
        watch = self.follower()
        self.exchange(watch)
        self.assertEqual(['dcn7'], list(json.loads(self.lead.left)))
        self.take_away(watch)
        self.exchange(watch)
        self.assertEqual(['dcn7'], list(json.loads(self.lead.left)))
        self.empty = True
        self.exchange(watch, 2)
        self.assertEqual('{}', self.lead.left)

    def leader(self, follower):
        """Return the registry of the process that leads."""
        leading = site_registry.SiteRegistry(
            follower.stores, follower.registry._sites, self.tasks, 'host',
            lambda: self.now, records=lambda *unused: FakeDefinitions(
                self.known, self.others))
        leading.present = follower.registry.present
        return leading

    def test_site_that_another_release_has_recorded(self):
        watch = self.follower()
        self.lead.left = json.dumps({'dcn7': self.options()})
        watch.registry.follow()
        # Another process leads from here on, and does not understand it.
        self.others['dcn7'] = 'it is of version 3'
        self.leader(watch).exchange(watch._home_site())
        watch.registry.follow()
        self.assertEnabled(dcn7='http')

    def test_site_that_another_release_has_recorded_anew(self):
        watch = self.follower()
        self.known['dcn7'] = definitions.Definition(self.options())
        leading = self.leader(watch)
        leading.exchange(watch._home_site())
        self.assertEqual(self.options(), json.loads(self.lead.left)['dcn7'])
        self.others['dcn7'] = 'it is of version 3'
        leading.exchange(watch._home_site())
        # What was recorded before is not served by those that start now.
        self.assertEqual({'dcn7': None}, json.loads(self.lead.left))

    def test_conf_file_of_somebody_else(self):
        watch = self.follower()
        self.lead.left = json.dumps({'dcn7': dict(
            self.options(), rbd_store_ceph_conf='/tmp/evil.conf')})
        watch.registry.follow()
        self.assertEnabled()
        self.assertIn('none of the folders', self.log.output)

    def test_what_cannot_be_understood(self):
        watch = self.follower()
        for text in ('x', '[]', '{"dcn7": 1}'):
            self.lead.left = text
            watch.registry.follow()
        self.assertEnabled()
        self.assertIn('cannot be understood', self.log.output)
