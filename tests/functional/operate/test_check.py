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

"""``glance-dcn check`` on a healthy lab, and on many broken set-ups."""

import contextlib
import os
import pathlib
import socket
import uuid

import fixtures

from glance_dcn.ceph import omap
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home
from lab import ceph
from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.operate import base as operate

_NODE = ('stores,database,copies,plugins,raw,locations,quota,staging,'
         'self-reference')
# A key that no cluster has given out.
_KEY = 'AQBtNv9mAAAAABAAf0wnbzUb4rmS0n5LxPkE7Q=='
_CONF = """\
[global]
fsid = %(fsid)s
mon_host = %(mon_host)s
[client.%(user)s]
keyring = %(keyring)s
"""
_SITE = """\
- name: %(name)s
  central: %(central)s
  cluster: {conf: %(conf)s, user: glance, key: {file: %(key)s}}
  workers: ['%(url)s']
"""


class CheckTestCase(operate.CommandTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)

    def check(self, stores, *argv, overrides=None, default='central',
              expect=None):
        """Run the check and return {(site, check): finding}.

        :param expect: the exit status
        """
        etc = self.configured(stores, overrides, default)
        self.forget_workers()
        status, out, self.seconds = self.run_command(
            etc, 'check', '--format', 'json', '--staging-room', '1', *argv)
        self.assertEqual(expect, status)
        return {(finding['site'], finding['check']): finding
                for finding in self.json_of(out)['checks']}

    def assertFound(self, found, *expected):
        """Nothing is wrong but (site, check, words of the message)."""
        # Other tests take images away from their pools meanwhile.
        bad = {key: finding for key, finding in found.items()
               if finding['level'] in ('warn', 'fail')
               and (key[1] != 'images' or key in {
                   (site, check) for site, check, _words in expected})}
        self.assertEqual({(site, check) for site, check, _words in expected},
                         set(bad))
        for site, check, words in expected:
            finding = bad[site, check]
            self.assertIn(words, finding['text'])
            self.assertTrue(finding['remedy'])

    def store(self, cluster, conf=None, **options):
        """Return a store, as :class:`lab.glance.Glance` takes it.

        With the key of the cluster's own Glance unless others are named.
        """
        options = dict({'rbd_store_ceph_conf': conf} if conf else {},
                       **{'dcn_access': 'owner', **options})
        return 'dcn', glance.rbd_store(cluster, **options)

    def conf(self, name, cluster, **changes):
        """Write a conf file that is a little wrong, and return its path."""
        text = cluster.conf.read_text()
        said = dict({
            'fsid': cluster.fsid, 'user': 'glance',
            'keyring': cluster.keyring('glance'),
            'mon_host': next(line.partition('=')[2].strip()
                             for line in text.splitlines()
                             if line.startswith('mon_host'))}, **changes)
        path = self.folder / ('%s.conf' % name)
        path.write_text(_CONF % said)
        return path

    def keyring(self, name, key=_KEY, user='glance', mode=0o600):
        """Write a keyring and return its path."""
        path = self.folder / ('%s.keyring' % name)
        process.write_private(path, '[client.%s]\n\tkey = %s\n' % (user, key))
        path.chmod(mode)
        return path


class HealthyTest(CheckTestCase):

    def test_all_green(self):
        found = self.check(
            base.rbd_stores(), '--glance', self.lab.glance('dcn0').url,
            expect=0)
        self.assertFound(found)
        self.assertEqual({'ok'}, {finding['level']
                                  for finding in found.values()})
        self.assertEqual('it is the user of the site itself',
                         found['central', 'excess']['text'])
        self.assertEqual('it can reach no records',
                         found['dcn0', 'excess']['text'])
        for site in base.SITES:
            self.assertEqual(
                'create, write, read, snapshot, protect, clone, trash, '
                'unprotect, remove', found[site, 'rights']['text'])
            self.assertGreater(
                found[site, 'throughput']['figures']['write'], 0)
        self.assertInTime(self.seconds, 15)
        self.assertNoScratch(*map(self.cluster, base.SITES))

    def test_table(self):
        etc = self.configured(base.rbd_stores())
        status, out, _seconds = self.run_command(
            etc, 'check', '--site', 'dcn0', '--only', 'login,round-trip')
        self.assertEqual(0, status)
        self.assertIn('dcn0  login       ok     as client.glance', out)
        self.assertIn('2 ok, 0 warnings, 0 failures', out)

    def test_sites_file(self):
        path = self.folder / 'sites.yaml'
        path.write_text('paths: {ceph: %s}\nsites:\n%s' % (
            self.cluster('central').etc, ''.join(
                _SITE % {'name': site, 'conf': self.cluster(site).conf,
                         'central': str(site == 'central').lower(),
                         'key': self.cluster(site).keyring('glance'),
                         'url': self.lab.glance(site).url}
                for site in base.SITES)))
        found = self.check(base.rbd_stores(), '--sites', path, '--only',
                           'fsid,glance', expect=0)
        self.assertFound(found)
        self.assertEqual(
            {(site, check) for site in base.SITES
             for check in ('fsid', 'glance')}, set(found))

    def test_no_such_site(self):
        status, _out, _seconds = self.run_command(
            self.configured(base.rbd_stores()), 'check', '--site', 'dcn9')
        self.assertEqual(2, status)


class BrokenSitesTest(CheckTestCase):

    def test_each_is_found_and_named(self):
        central, dcn0 = self.cluster('central'), self.cluster('dcn0')
        reader = self.reader(dcn0)
        unused = 'v2:127.0.0.1:%d' % process.free_port()
        stores = {
            'central': self.store(central),
            'sound': self.store(dcn0),
            'noconf': self.store(dcn0, '/nonsense/dcn0.conf'),
            'badconf': self.store(dcn0, self.folder / 'badconf.conf'),
            'nokeyring': self.store(dcn0, self.conf(
                'nokeyring', dcn0, keyring='/nonsense/keyring')),
            'openkeyring': self.store(dcn0, self.conf(
                'openkeyring', dcn0, user='openstack',
                keyring=self.open_keyring(dcn0)),
                rbd_store_pool='vms', rbd_store_user='openstack'),
            'wrongkey': self.store(dcn0, self.conf(
                'wrongkey', dcn0, keyring=self.keyring('wrongkey'))),
            'wrongfsid': self.store(dcn0, self.conf(
                'wrongfsid', dcn0, fsid=base.SOME_FSID)),
            'away': self.store(dcn0, self.conf(
                'away', dcn0, mon_host=unused)),
            'nopool': self.store(dcn0, rbd_store_pool='imagse'),
            'nocap': self.store(
                dcn0, self.conf('nocap', dcn0, user='reader',
                                keyring=reader),
                rbd_store_user='reader', rbd_store_pool='volumes'),
            'twin': self.store(central),
            'moved': self.store(self.cluster('dcn1')),
        }
        (self.folder / 'badconf.conf').write_text('[global\nnonsense')
        self.keep_fsid(central, 'moved', base.SOME_FSID)
        found = self.check(stores, expect=1, overrides={
            'DEFAULT': {'image_location_quota': '50'}})
        other = 'is that of site sound too'
        self.assertFound(
            found,
            ('noconf', 'conf', '/nonsense/dcn0.conf is not there'),
            ('badconf', 'conf', 'is not usable'),
            ('nokeyring', 'keyring', '/nonsense/keyring'),
            ('openkeyring', 'keyring', 'can be read by everybody'),
            ('openkeyring', 'own-pool', other),
            ('wrongkey', 'login', 'refuses client.glance'),
            ('wrongfsid', 'fsid', 'but %s says %s' % (
                self.folder / 'wrongfsid.conf', base.SOME_FSID)),
            ('away', 'monitors', unused),
            ('nopool', 'pool', 'no pool imagse'),
            ('nocap', 'rights', 'client.reader may not create'),
            ('nocap', 'excess', 'cannot reach the records'),
            ('nocap', 'own-pool', other),
            ('twin', 'own-pool', 'that of site central already'),
            ('moved', 'own-pool', 'had fsid %s' % base.SOME_FSID))
        # What cannot be tried is said to be so, and why.
        self.assertEqual(
            ('skip', 'not possible, see login'), tuple(
                found['wrongkey', 'rights'][name]
                for name in ('level', 'text')))
        self.assertNoScratch(*map(self.cluster, base.SITES))

    def open_keyring(self, cluster):
        """Return a keyring of openstack that everybody can read."""
        path = self.folder / 'open.keyring'
        path.write_text(cluster.keyring('openstack').read_text())
        path.chmod(0o644)
        return path

    def reader(self, cluster):
        """Return the keyring of a user who may read, and no more."""
        with cluster.connect() as client:
            reply = ceph.command(client, {
                'prefix': 'auth get-or-create', 'format': 'json',
                'entity': 'client.reader', 'caps': [
                    'mon', 'profile rbd', 'osd', 'allow r pool=volumes']})
        return self.keyring('reader', self.json_of(reply)[0]['key'],
                            'reader')

    def keep_fsid(self, cluster, store, fsid):
        """Have it that a store had another cluster once."""
        deployment = base.deployment_id(self.lab.database.url('glance'))
        with self.home(cluster) as ioctx:
            cluster_identity.add(ioctx, deployment, store, fsid)
            cluster_identity.replace(ioctx, deployment, store, fsid)
        self.addCleanup(self.forget_fsid, cluster, store)

    def forget_fsid(self, cluster, store):
        with self.home(cluster) as ioctx:
            omap.remove(ioctx, cluster_identity.OBJECT, store)

    @contextlib.contextmanager
    def home(self, cluster):
        """Open the namespace of the records in a cluster."""
        with cluster.pool() as ioctx:
            ioctx.set_namespace(home.NAMESPACE)
            yield ioctx

    def test_glance_user_cannot_read(self):
        if os.geteuid():
            self.fail('only root can tell what others can read')
        dcn0 = self.cluster('dcn0')
        # Both were made for this test alone.
        for folder in (self.folder, self.folder.parent):
            folder.chmod(0o711)
        locked = self.folder / 'locked'
        locked.mkdir(mode=0o700)
        hidden = self.conf('hidden', dcn0).rename(locked / 'hidden.conf')
        found = self.check(
            {'dcn0': self.store(dcn0), 'hidden': self.store(dcn0, hidden)},
            '--user', 'nobody', '--only', 'conf,keyring', '--site', 'dcn0',
            '--site', 'hidden', default='dcn0', expect=1)
        self.assertFound(
            found, ('dcn0', 'keyring', 'by user nobody (Permission denied)'),
            ('hidden', 'conf', 'by user nobody'))

    def test_many_sites_of_which_half_are_away(self):
        # They take connections and say nothing, which is the worst.
        silent = socket.create_server(('127.0.0.1', 0), backlog=256)
        self.addCleanup(silent.close)
        place = 'v2:127.0.0.1:%d' % silent.getsockname()[1]
        stores = {}
        for number in range(20):
            cluster = self.cluster(base.SITES[number % 3])
            conf = None
            if number % 2:
                conf = self.conf('away%d' % number, cluster, mon_host=place)
            stores['dcn%d' % number] = self.store(cluster, conf)
        found = self.check(stores, default='dcn0', expect=1)
        self.assertInTime(self.seconds, 15)
        self.assertEqual(
            {('dcn%d' % number, 'monitors') for number in range(1, 20, 2)},
            {key for key, finding in found.items()
             if finding['level'] == 'fail' and key[1] != 'own-pool'})


class ExcessTest(CheckTestCase):
    """A node knows what its keys should be good for, and finds out."""

    def user(self, cluster, mon, osd):
        """Make a user, and return options of a store with its key."""
        name = 'test-%s' % uuid.uuid4().hex[:8]
        with cluster.connect() as client:
            reply = ceph.command(client, {
                'prefix': 'auth get-or-create', 'format': 'json',
                'entity': 'client.' + name,
                'caps': ['mon', mon, 'osd', osd]})
        self.addCleanup(self.remove_user, cluster, name)
        return {'rbd_store_user': name, 'conf': self.conf(
            name, cluster, user=name, keyring=self.keyring(
                name, self.json_of(reply)[0]['key'], name))}

    def remove_user(self, cluster, name):
        with cluster.connect() as client:
            ceph.command(client, {'prefix': 'auth del',
                                  'entity': 'client.' + name})

    def look(self, at='dcn0', expect=1, **options):
        """Check the store of the other site from a node."""
        other = 'central' if at == 'dcn0' else 'dcn0'
        stores = base.rbd_stores(sites=('central', 'dcn0'), default=at)
        if options:
            stores[other] = self.store(self.cluster(other), **options)
        found = self.check(stores, '--only', 'rights,excess,throughput',
                           default=at, expect=expect)
        return found, other

    def test_an_edge_that_may_only_read(self):
        found, _other = self.look(expect=0)
        self.assertFound(found)
        self.assertEqual('it may only read',
                         found['central', 'excess']['text'])
        self.assertIn('list', found['central', 'rights']['text'])
        self.assertIn('not measured', found['central', 'throughput']['text'])

    def test_keys_that_can_do_more(self):
        central = self.cluster('central')
        for mon, osd, words in (
                ('profile rbd', 'profile rbd pool=images', 'can reach the '
                 'records of that site, which are in namespace glance-dcn'),
                ('profile rbd', "profile rbd pool=images namespace=''",
                 'may write there; expected read-only'),
                ('profile rbd-read-only',
                 'allow r class-read pool=images namespace=""',
                 'may blocklist clients of the cluster')):
            found, other = self.look(dcn_access='read-only', **self.user(
                central, mon, osd))
            self.assertFound(found, (other, 'excess', words))
            self.assertIn('ceph auth caps client.test-',
                          found[other, 'excess']['remedy'])
            self.assertIn("mon 'profile simple-rados-client' osd \"allow r "
                          "class-read pool=images namespace=''\"",
                          found[other, 'excess']['remedy'])
        # Nothing was done to find out.
        self.assertNoScratch(central)

    def test_key_of_central_that_reaches_the_records(self):
        found, other = self.look(at='central', dcn_access='read-write')
        self.assertFound(found, (other, 'excess', 'client.glance can reach'))

    def test_home_whose_records_cannot_be_read(self):
        # The central Glance has a key there that reaches no records.
        found = self.check(
            base.rbd_stores(), '--site', 'dcn0', '--only', 'excess,records',
            overrides={'glance_dcn': {'home_store': 'dcn0'}}, expect=1)
        self.assertFound(
            found, ('dcn0', 'excess', 'cannot reach the records'),
            ('dcn0', 'records', 'may not read the records'))

    def test_own_key_that_does_not(self):
        stores = {'dcn0': self.store(self.cluster('dcn0'), **self.user(
            self.cluster('dcn0'), 'profile rbd',
            "profile rbd pool=images namespace=''"))}
        found = self.check(stores, '--only', 'rights,excess',
                           default='dcn0', expect=1)
        self.assertFound(found, ('dcn0', 'excess',
                                 'cannot reach the records of this site'))


class BrokenNodeTest(CheckTestCase):

    def node(self, expect=1, stores=None, default='central', argv=(),
             **overrides):
        return self.check(stores or base.rbd_stores(), '--only', _NODE, *argv,
                          overrides=overrides, default=default, expect=expect)

    def test_plugins(self):
        self.assertFound(
            self.node(image_import_opts={
                'image_import_plugins': '[inject_image_metadata]'}),
            ('node', 'plugins', 'dcn_image_conversion is not in'))
        self.assertFound(
            self.node(expect=0, image_import_opts={
                'image_import_plugins': '[dcn_image_conversion]'}),
            ('node', 'plugins', 'dcn_distributed_staging is not in'))
        self.assertFound(
            self.node(image_import_opts={
                'image_import_plugins':
                    '[dcn_distributed_staging, dcn_image_conversion, '
                    'image_decompression]'}),
            ('node', 'plugins', 'image_decompression must come before'))

    def test_what_nova_needs(self):
        self.assertFound(
            self.node(DEFAULT={'show_multiple_locations': 'false',
                               'enabled_import_methods': '[glance-direct]',
                               'image_location_quota': '2'},
                      image_conversion={'output_format': 'qcow2'}),
            ('node', 'quota', 'image_location_quota is 2'),
            ('node', 'locations', 'show_multiple_locations is off'),
            ('node', 'copies', 'copy-image is not among'),
            ('node', 'raw', 'qcow2'))

    def test_self_reference_is_that_of_another(self):
        self.assertFound(
            self.node(DEFAULT={
                'worker_self_reference_url': 'http://192.0.2.1:9292'}),
            ('node', 'self-reference', 'leads to 192.0.2.1'))
        self.assertFound(
            self.node(DEFAULT={'worker_self_reference_url':
                               self.lab.keystone.url}),
            ('node', 'self-reference', 'no Glance answers'))

    def test_staging(self):
        self.assertFound(
            self.node(argv=('--staging-room', '1048576'), expect=0),
            ('node', 'staging', 'GiB free, less than'))
        self.assertFound(
            self.node(os_glance_staging_store={
                'filesystem_store_datadir': '/nonsense'}),
            ('node', 'staging', '/nonsense is not there'))
        # A file system without any room.
        self.assertFound(
            self.node(os_glance_staging_store={
                'filesystem_store_datadir': '/sys/fs'}),
            ('node', 'staging', 'has 0.0 GiB free'))

    def test_stores_and_database(self):
        self.assertFound(
            self.node(default='dcn9', database={
                'connection': 'mysql+pymysql://u:secret@127.0.0.1:1/glance',
                'max_retries': 1, 'retry_interval': 1}),
            ('node', 'stores', "default_backend is 'dcn9'"),
            ('node', 'database', 'does not answer'))

    def test_glance_is_down(self):
        url = 'http://127.0.0.1:%d' % process.free_port()
        found = self.check(base.rbd_stores(), '--glance', url, '--only',
                           'glance', expect=1)
        self.assertFound(found, ('glance', 'glance', url))

    def test_unknown_check(self):
        status, _out, _seconds = self.run_command(
            self.folder, 'check', '--only', 'nonsense')
        self.assertEqual(2, status)


class SilentOsdTest(CheckTestCase):
    """A cluster whose monitor answers, and whose OSD does not."""

    def test_it_is_named_in_time_and_nothing_is_left(self):
        edge = ceph.Cluster('edge-%s' % uuid.uuid4().hex[:6],
                            self.folder / 'c', self.folder / 'etc',
                            size=4 << 30)
        self.addCleanup(edge.stop)
        edge.start()
        stores = {'central': self.store(self.cluster('central')),
                  'edge': self.store(edge)}
        self.assertFound(self.check(stores, '--site', 'edge', expect=0))
        edge.freeze(edge.osd)
        self.addCleanup(edge.thaw)
        self.assertFound(
            self.check(stores, expect=1),
            ('edge', 'pool', 'do not answer'))
        self.assertInTime(self.seconds, 15)
        edge.thaw()
        self.assertNoScratch(edge)
