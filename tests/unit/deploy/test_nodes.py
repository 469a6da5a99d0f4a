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


import configparser
import os
import struct

import fixtures
import hypothesis
from hypothesis import strategies

from glance_dcn.deploy import files
from glance_dcn.deploy import render
from tests.unit.deploy import base
from tests.unit.deploy import loading

_API = 'etc/glance/glance-api.conf.d/glance-dcn.conf'


class PlainTestCase(base.SitesFileTestCase):

    def rendered(self, site, text=base.SITES, number=0):
        """Return the text of each file of a site's node, by its path."""
        found = self.load(text)
        rendering = render.plain(found, found.site(site))[number]
        return {file.path: file.text for file in rendering.files}

    def loaded(self, site, text=base.SITES, number=0):
        """Return the configuration of a site as Glance has it."""
        paths = []
        for path, contents in self.rendered(site, text, number).items():
            if path == _API:
                paths.append(self.folder / path.rpartition('/')[2])
                paths[-1].write_text(contents)
        return loading.conf_of(*paths)


class TestManySites(PlainTestCase):
    """What a deployment needs that has more sites than Glance expects."""

    def test_location_quota(self):
        # Of three stores, Glance's own.
        self.assertNotIn('image_location_quota',
                         self.rendered('central')[_API])
        for site in ('central', 'dcn0'):
            # The same for many numbers of stores: by each change of it, every
            # Glance would have to be restarted.
            for count, quota in ((25, 50), (30, 50), (45, 100), (75, 100)):
                self.assertEqual(quota, self.loaded(
                    site, self.many(count)).image_location_quota)

    def test_what_the_sites_file_says_counts(self):
        text = self.many(20).replace(
            'glance:\n', 'glance:\n  DEFAULT: {image_location_quota: -1}\n')
        self.assertEqual(-1, self.loaded('central', text).image_location_quota)


class TestCentral(PlainTestCase):

    def test_stores(self):
        conf = self.loaded('central')
        self.assertEqual({'central': 'dcn', 'dcn0': 'dcn', 'dcn1': 'dcn'},
                         {name: kind for name, kind
                          in conf.enabled_backends.items()
                          if name not in loading.RESERVED})
        self.assertEqual('central', conf.glance_store.default_backend)
        for store in ('central', 'dcn0', 'dcn1'):
            self.assertEqual(
                ('/etc/ceph/%s.conf' % store, 'external' if store == 'central'
                 else 'glance-central', 'images',
                 '%s RBD store' % store, 5),
                (conf[store].rbd_store_ceph_conf, conf[store].rbd_store_user,
                 conf[store].rbd_store_pool, conf[store].store_description,
                 conf[store].rados_connect_timeout))
        self.assertEqual((4, 50.0), (conf.dcn0.dcn_max_transfers,
                                     conf.dcn0.dcn_bandwidth_limit))
        self.assertEqual((0, 0), (conf.dcn1.dcn_max_transfers,
                                  conf.dcn1.dcn_bandwidth_limit))

    def test_imports(self):
        conf = self.loaded('central')
        self.assertEqual(['dcn_distributed_staging', 'dcn_image_conversion'],
                         conf.image_import_opts.image_import_plugins)
        self.assertEqual('raw', conf.image_conversion.output_format)
        self.assertEqual(['glance-direct', 'web-download', 'copy-image'],
                         conf.enabled_import_methods)
        self.assertTrue(conf.show_multiple_locations)
        # That is the deployer's.
        self.assertNotIn('paste_deploy', self.rendered('central')[_API])

    def test_import_options_count_over_those_of_packages(self):
        stock = self.folder / 'glance-image-import.conf'
        stock.write_text('[image_import_opts]\n'
                         'image_import_plugins = [no_op]\n')
        ours = self.folder / 'glance-api.conf.d' / 'glance-dcn.conf'
        ours.parent.mkdir()
        ours.write_text(self.rendered('central')[_API])
        self.useFixture(fixtures.EnvironmentVariable('HOME',
                                                     str(self.folder)))
        self.assertEqual(
            'dcn_distributed_staging',
            loading.conf_of(stock).image_import_opts.image_import_plugins[0])

    def test_each_worker_has_its_own_reference(self):
        for number, url in enumerate(('http://10.0.0.11:9292',
                                      'http://10.0.0.12:9292')):
            self.assertEqual(url, self.loaded(
                'central', number=number).worker_self_reference_url)

    def test_secrets_are_read_as_they_are(self):
        conf = self.loaded('central')
        self.assertEqual(
            'mysql+pymysql://glance:pa$$s@10.0.0.5/glance',
            _raw(conf, 'database', 'connection'))

    def test_secret_of_two_lines(self):
        self.write_secret('database', 'a\n[glance_store]\nstores = file\n')
        self.assertRaisesRegex(Exception, 'sites.yaml:5: .*not one line',
                               self.rendered, 'central')

    def test_modes(self):
        found = self.load()
        modes = {file.path: file.mode for file in render.plain(
            found, found.central)[0].files}
        self.assertEqual({
            _API: 0o640,
            'etc/ceph/central.conf': 0o644,
            'etc/ceph/central.client.external.keyring': 0o600,
            'etc/ceph/dcn0.conf': 0o644,
            'etc/ceph/dcn0.client.glance-central.keyring': 0o600,
            'etc/ceph/dcn1.conf': 0o644,
            'etc/ceph/dcn1.client.glance-central.keyring': 0o600}, modes)

    def test_site_without_a_key(self):
        found = self.load(base.SITES.replace(
            '    key: {file: dcn0.keyring}\n', ''))
        rendering = render.plain(found, found.site('dcn0'))[0]
        self.assertNotIn('etc/ceph/dcn0.client.external.keyring',
                         [file.path for file in rendering.files])
        self.assertEqual(('site dcn0 has no key of client.external: its '
                          'keyring is not written',), rendering.notes)


def _raw(conf, group, option):
    """Return the value of an option that is not registered here."""
    from oslo_config import cfg
    conf.register_opt(cfg.StrOpt(option), group=group)
    return conf[group][option]


class TestEdge(PlainTestCase):

    def test_stores(self):
        conf = self.loaded('dcn0')
        self.assertEqual(['dcn0', 'central'], [
            name for name in conf.enabled_backends
            if name not in loading.RESERVED])
        self.assertEqual('dcn0', conf.glance_store.default_backend)
        self.assertEqual('/etc/ceph/central.conf',
                         conf.central.rbd_store_ceph_conf)
        self.assertEqual('http://10.1.0.11:9292',
                         conf.worker_self_reference_url)

    def test_clusters(self):
        texts = self.rendered('dcn0')
        self.assertEqual(
            {'dcn0': base.FSIDS[2], 'central': base.FSIDS[1]},
            {name: _ini(texts['etc/ceph/%s.conf' % name])['global']['fsid']
             for name in ('dcn0', 'central')})
        parsed = _ini(texts['etc/ceph/dcn0.conf'])
        self.assertEqual('172.16.11.61', parsed['global']['mon_host'])
        self.assertEqual('/etc/ceph/dcn0.client.external.keyring',
                         parsed['client.external']['keyring'])
        keyring = _ini(texts['etc/ceph/dcn0.client.external.keyring'])
        self.assertEqual(base.KEY, keyring['client.external']['key'])
        self.assertNotIn('etc/ceph/dcn1.conf', texts)

    def test_without_a_cluster(self):
        conf = self.loaded('far')
        self.assertEqual(['central'], [
            name for name in conf.enabled_backends
            if name not in loading.RESERVED])
        self.assertEqual('central', conf.glance_store.default_backend)
        self.assertEqual('keystone+cachemanagement',
                         conf.paste_deploy.flavor)
        self.assertEqual(('/var/lib/glance/image-cache', 10 << 30),
                         (conf.image_cache_dir, conf.image_cache_max_size))

    def test_staging(self):
        conf = self.loaded('dcn0', base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  staging: /srv/staging'))
        self.assertEqual(
            '/srv/staging',
            conf.os_glance_staging_store.filesystem_store_datadir)
        self.assertEqual('/var/lib/glance/os_glance_tasks_store',
                         conf.os_glance_tasks_store.filesystem_store_datadir)

    def test_options(self):
        conf = self.loaded('dcn0', base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  glance:\n'
            '    DEFAULT: {show_multiple_locations: false}\n'
            '    paste_deploy: {flavor: keystone}'))
        self.assertFalse(conf.show_multiple_locations)


class TestSitesDir(PlainTestCase):

    text = 'paths: {sites: /etc/glance/sites.d}\n' + base.SITES

    def test_central_has_a_file_for_each_other_site(self):
        texts = self.rendered('central', self.text)
        self.assertIn('enabled_backends = central:dcn\n', texts[_API])
        self.assertIn('sites_dir = /etc/glance/sites.d\n', texts[_API])
        self.assertNotIn('[dcn0]', texts[_API])
        self.assertEqual(
            '/etc/ceph/dcn0.conf',
            _ini(texts['etc/glance/sites.d/dcn0.conf'])['dcn0'][
                'rbd_store_ceph_conf'])
        self.assertIn('etc/ceph/dcn0.client.glance-central.keyring', texts)

    def test_edges_have_none(self):
        texts = self.rendered('dcn0', self.text)
        self.assertIn('enabled_backends = dcn0:dcn,central:dcn', texts[_API])
        self.assertNotIn('etc/glance/sites.d/dcn1.conf', texts)
        self.assertNotIn('sites_dir', texts[_API])


class TestNodes(PlainTestCase):

    def test_names(self):
        for urls, names in (
                (['http://a:1', 'http://b:1'], ['a', 'b']),
                (['http://a:1', 'http://a:2'], ['a_1', 'a_2']),
                (['http://a', 'https://a'], ['a_http', 'a_https']),
                (['http://[::1]:9', 'http://b'], ['--1', 'b']),
                (['http://a/x', 'http://a/y'], ['worker-0', 'worker-1'])):
            self.assertEqual(names, render.node_names(urls))

    def test_folders(self):
        found = self.load()
        for sites, prefixes in (
                (['dcn0'], ['']), (['central'], ['10.0.0.11/', '10.0.0.12/']),
                (['central', 'dcn0'],
                 ['central/10.0.0.11/', 'central/10.0.0.12/', 'dcn0/'])):
            self.assertEqual(prefixes, [
                prefix for prefix, _rendering in render.render(
                    found, [found.site(site) for site in sites], 'plain')])

    def test_no_workers(self):
        found = self.load(base.SITES.replace(
            "  workers: ['http://10.1.0.11:9292']\n", ''))
        [rendering] = render.plain(found, found.site('dcn0'))
        self.assertIn('no workers', rendering.notes[0])


class TestText(base.SitesFileTestCase):

    # What one line of the sites file can say.
    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(strategies.text(strategies.characters(
        blacklist_categories=('C', 'Z'), whitelist_characters=' '),
        min_size=1).filter(lambda text: text.strip()))
    @hypothesis.example('"quoted"')
    @hypothesis.example("'")
    @hypothesis.example('$HOME ${x} $$ %(y)s')
    @hypothesis.example(r'a\$b \\$c \$$ \\')
    @hypothesis.example(' # no comment')
    @hypothesis.example('[section]')
    @hypothesis.example('a = b')
    def test_oslo_config_reads_what_was_meant(self, value):
        from oslo_config import cfg
        with fixtures.TempDir() as folder:
            path = folder.join('test.conf')
            with open(path, 'w') as target:
                target.write(files.conf({'a': {'b': value, 'c': 'd'}}))
            conf = cfg.ConfigOpts()
            conf.register_opts([cfg.StrOpt('b'), cfg.StrOpt('c')], group='a')
            conf([], default_config_files=[path])
            self.assertEqual((value, 'd'), (conf.a.b, conf.a.c))


class TestStability(base.SitesFileTestCase):

    def test_same_input_same_bytes(self):
        texts = [
            {file.path: file.text for kind in render.KINDS
             for _rendering, file in render.placed(render.render(
                 found, list(found.sites), kind))}
            for found in (self.load(), self.load())]
        self.assertEqual(texts[0], texts[1])

    def test_secrets_are_in_no_representation(self):
        found = self.load()
        renderings = render.render(found, list(found.sites), 'plain')
        self.assertNotIn(base.KEY, repr(renderings))
        self.assertTrue(any(
            base.KEY in file.secrets
            for _rendering, file in render.placed(renderings)))


class TestFiles(base.SitesFileTestCase):

    def setUp(self):
        super().setUp()
        self.output = self.folder / 'output'

    def write(self, *made, **options):
        return [written.state for written
                in files.write(self.output, made, **options)]

    def test_states(self):
        file = files.File('a/b', 'text')
        self.assertEqual([files.NEW], self.write(file))
        self.assertEqual([files.SAME], self.write(file))
        self.assertEqual([files.CHANGED], self.write(
            files.File('a/b', 'other')))
        self.assertEqual('other', (self.output / 'a/b').read_text())
        self.assertEqual({'b': 'other', 'b.bak': 'text'}, {
            path.name: path.read_text()
            for path in (self.output / 'a').iterdir()})

    def test_mode_is_mended(self):
        file = files.File('secret', 'text', files.SECRET)
        self.write(file)
        (self.output / 'secret').chmod(0o644)
        self.assertEqual([files.CHANGED], self.write(file))
        self.assertEqual(0o600, (self.output / 'secret').stat().st_mode
                         & 0o777)

    def test_dry_run(self):
        self.write(files.File('a', 'text'))
        self.assertEqual([files.CHANGED, files.NEW], self.write(
            files.File('a', 'other'), files.File('b', 'other'),
            dry_run=True))
        self.assertEqual({'a': 'text'}, {
            path.name: path.read_text() for path in self.output.iterdir()})

    def test_nothing_is_written_if_a_section_would_be_lost(self):
        self.output.mkdir()
        for name, kept in (('a.keyring', '[client.nova]\n\tkey = x\n'),
                           ('dcn0.conf', '[dcn0]\nx = y\n[database]\n')):
            path = self.output / name
            path.write_text(kept)
            exc = self.assertRaises(
                files.Error, self.write, files.File('first', 'new'),
                files.File(name, '[dcn0]\nx = z\n'))
            self.assertIn('would be lost', str(exc))
            self.assertIn('[client.nova]' if name == 'a.keyring'
                          else '[database]', str(exc))
            self.assertEqual(kept, path.read_text())
            self.assertFalse((self.output / 'first').exists())

    def test_sections_of_sites_that_are_gone_may_go(self):
        before = files.conf({
            'DEFAULT': {'a': 'b'}, 'glance_dcn': {'c': 'd'},
            'dcn3': {'rbd_store_pool': 'images'}})
        self.write(files.File('a.conf', before))
        self.write(files.File('a.conf', files.conf(
            {'DEFAULT': {'a': 'b'}})))
        self.assertNotIn('dcn3', (self.output / 'a.conf').read_text())
        self.assertEqual(before, (self.output / 'a.conf.bak').read_text())

    def test_sections_added_to_what_was_rendered_stay(self):
        for number, body in enumerate((
                'allowed_origin = https://horizon',
                # No option of a store, wherever it says so.
                '# rbd_store_pool = images', 'x = rbd_store_pool = images')):
            path = self.output / ('%d.conf' % number)
            file = files.File(path.name, files.conf(
                {'DEFAULT': {'a': 'b'}}))
            self.write(file)
            with path.open('a') as target:
                target.write('\n[cors]\n%s\n' % body)
            before = path.read_text()
            exc = self.assertRaises(files.Error, self.write, files.File(
                path.name, files.conf({'DEFAULT': {'a': 'c'}})))
            self.assertIn('it has [cors], which is not rendered', str(exc))
            self.assertEqual(before, path.read_text())

    def test_copy_of_what_a_deployer_has_written_stays(self):
        self.output.mkdir()
        path = self.output / 'a.conf'
        path.write_text('[DEFAULT]\nmine = 1\n')
        written = [files.conf({'DEFAULT': {'a': str(number)}})
                   for number in range(3)]
        for text in written:
            self.write(files.File('a.conf', text))
        self.assertEqual({
            'a.conf': written[2], 'a.conf.bak': '[DEFAULT]\nmine = 1\n',
            'a.conf.bak.1': written[1]}, {
                path.name: path.read_text() for path in self.output.iterdir()})

    def test_copy_of_what_was_rendered_is_the_last_one(self):
        written = [files.conf({'DEFAULT': {'a': str(number)}})
                   for number in range(3)]
        for text in written:
            self.write(files.File('a.conf', text))
        self.assertEqual({'a.conf': written[2], 'a.conf.bak': written[1]}, {
            path.name: path.read_text() for path in self.output.iterdir()})

    def test_secret_that_is_kept_is_as_secret_as_before(self):
        self.useFixture(_Umask(0o000))
        for text in ('one', 'two'):
            self.write(files.File('secret', text, files.SECRET))
        self.assertEqual(0o600, (self.output / 'secret.bak').stat().st_mode
                         & 0o777)

    def test_umask_does_not_matter(self):
        self.useFixture(_Umask(0o000))
        self.write(files.File('secret', 'text', files.SECRET),
                   files.File('conf', 'text', files.INNER))
        self.assertEqual([0o600, 0o600], [
            (self.output / name).stat().st_mode & 0o777
            for name in ('secret', 'conf')])

    def test_group(self):
        group = self.folder.stat().st_gid
        self.write(files.File('secret', 'text', files.SECRET), group=group)
        found = (self.output / 'secret').stat()
        self.assertEqual((0o640, group), (found.st_mode & 0o777,
                                          found.st_gid))

    def test_link_is_replaced(self):
        elsewhere = self.folder / 'elsewhere'
        elsewhere.write_text('kept')
        self.output.mkdir()
        (self.output / 'a').symlink_to(elsewhere)
        self.write(files.File('a', 'text'))
        self.assertFalse((self.output / 'a').is_symlink())
        self.assertEqual('kept', elsewhere.read_text())

    def test_cannot_be_written(self):
        self.output.write_text('in the way')
        exc = self.assertRaises(files.Error, self.write,
                                files.File('a/b', 'text'))
        self.assertIn('cannot be written', str(exc))

    def test_nothing_is_left_of_one_that_failed(self):
        (self.output / 'a').mkdir(parents=True)
        self.assertRaises(files.Error, self.write, files.File('a', 'text'))
        self.assertEqual(['a'], [path.name for path in
                                 self.output.iterdir()])

    def test_no_such_group(self):
        self.assertRaises(files.Error, files.gid, 'no-such-group')


class TestShared(base.SitesFileTestCase):
    """Files of clusters that others have a part in."""

    conf = '[global]\nfsid = %s\nmon_host = 10.9.9.9\n\n' % base.FSIDS[1]
    ours = conf + '[client.glance]\nkeyring = /k\n'
    ring = '[client.glance]\n\tkey = %s\n' % base.KEY

    def setUp(self):
        super().setUp()
        self.output = self.folder / 'output'

    def shared(self, text, mode, name='a'):
        """Write a file of the deployer's; return its path."""
        self.output.mkdir(exist_ok=True)
        path = self.output / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def merge(self, text, mode, group=None, name='a'):
        """Render a file; return what is told of it."""
        [written] = files.write(self.output, [files.File(
            name, text, mode, kind=files.Kind.CEPH)], group)
        return written

    def mode(self, path):
        return path.stat().st_mode & 0o777

    def test_no_permission_is_added(self):
        path = self.shared('[client.cinder]\nkey = x\n', 0o600)
        written = self.merge(self.ours, files.OPEN)
        self.assertIn('[client.cinder]\nkey = x\n', path.read_text())
        self.assertEqual([0o600] * 3, [
            self.mode(path), self.mode(self.output / 'a.bak'), written.mode])
        # That Glance may not read it is told.
        self.assertTrue(written.withheld)
        for _ in range(2):
            self.assertEqual(files.SAME, self.merge(self.ours,
                                                    files.OPEN).state)

    def test_group_that_reads_it_goes_on(self):
        path = self.shared('[client.nova]\n\tkey = x\n', 0o644)
        written = self.merge(self.ring, files.SECRET)
        # What has our key in it is not for all.
        self.assertEqual((0o640, 0o640), (self.mode(path), written.mode))
        self.assertFalse(written.withheld)
        path = self.shared('[client.nova]\n\tkey = x\n', 0o600)
        group = self.folder.stat().st_gid
        self.assertTrue(self.merge(self.ring, files.SECRET, group).withheld)
        self.assertEqual(0o600, self.mode(path))

    def test_owner_and_group_stay(self):
        path = self.shared('[client.nova]\n\tkey = x\n', 0o640)
        given = []
        found = path.stat()
        self.useFixture(fixtures.MonkeyPatch(
            'os.fchown',
            lambda _fd, *numbers: given.append(numbers)))
        written = self.merge(self.ring, files.SECRET, found.st_gid + 1)
        self.assertTrue(written.withheld)
        self.assertEqual((found.st_uid, found.st_gid), given[-1])
        # The copy of it as well.
        self.assertEqual(2, len(given))
        self.assertEqual(found.st_uid, given[0][0])

    def test_owner_and_group_of_others(self):
        if os.geteuid():
            self.skipTest('only root gives files to others')
        path = self.shared('[client.nova]\n\tkey = x\n', 0o644)
        os.chown(path, 1234, 4321)
        self.merge(self.ring, files.SECRET)
        for name in ('a', 'a.bak'):
            found = (self.output / name).stat()
            self.assertEqual((1234, 4321), (found.st_uid, found.st_gid))

    def test_access_control_list_stays(self):
        path = self.shared('[client.nova]\n\tkey = x\n', 0o600)
        # Of POSIX 1003.1e: its owner rw, user 1234 r, its group and others
        # nothing; as setfacl -m u:1234:r writes it.
        none = 0xffffffff
        acl = struct.pack('<I', 2) + b''.join(
            struct.pack('<HHI', *entry) for entry in (
                (1, 6, none), (2, 4, 1234), (4, 0, none), (16, 4, none),
                (32, 0, none)))
        try:
            os.setxattr(path, 'system.posix_acl_access', acl)
        except OSError as exc:
            self.skipTest('no access control lists here: %s' % exc)
        written = self.merge(self.ring, files.SECRET)
        self.assertFalse(written.withheld)
        for name in ('a', 'a.bak'):
            self.assertEqual(acl, os.getxattr(
                self.output / name, 'system.posix_acl_access'))

    def test_what_is_ours_alone_gets_what_is_asked_for(self):
        group = self.folder.stat().st_gid
        path = self.shared(self.ring, 0o600)
        self.assertFalse(self.merge(self.ring, files.SECRET, group).withheld)
        self.assertEqual(0o640, self.mode(path))
        path = self.shared(self.ours, 0o600)
        self.assertFalse(self.merge(self.ours, files.OPEN).withheld)
        self.assertEqual(0o644, self.mode(path))

    def test_another_cluster(self):
        other = self.conf.replace(base.FSIDS[1], base.FSIDS[2])
        for text, reason in (
                (other + '[client.cinder]\nkey = x\n',
                 'its fsid is that of another cluster, and [client.cinder] '
                 'would be pointed to the wrong one'),
                (other, 'others have written it: it has no [client.glance]'),
                ('[global]\nmon host = 10.0.0.1\n[client.nova]\n',
                 'it has no fsid, and another mon_host')):
            path = self.shared(text, 0o644)
            exc = self.assertRaises(
                files.Error, files.write, self.output, [
                    files.File('0', 'new'),
                    files.File('a', self.ours, kind=files.Kind.CEPH)])
            self.assertIn(reason, str(exc))
            self.assertEqual(text, path.read_text())
            self.assertEqual([path], list(self.output.iterdir()))

    def test_site_whose_cluster_is_another_one_now(self):
        path = self.shared(self.ours.replace(base.FSIDS[1], base.FSIDS[2]),
                           0o644)
        self.merge(self.ours, files.OPEN)
        self.assertEqual(self.ours, path.read_text())

    def test_same_cluster_with_other_monitors(self):
        path = self.shared(
            '[global]\nfsid = %s\nmon host = 10.0.0.1\n[client.nova]\n'
            'key = x\n' % base.FSIDS[1].upper(), 0o644)
        self.merge(self.ours, files.OPEN)
        self.assertIn('mon_host = 10.9.9.9', path.read_text())


class _Umask(fixtures.Fixture):

    def __init__(self, mask):
        self._mask = mask

    def _setUp(self):
        import os
        self.addCleanup(os.umask, os.umask(self._mask))


def _ini(text):
    parser = configparser.ConfigParser(interpolation=None)
    # Keyrings indent their options.
    parser.read_string('\n'.join(line.strip() for line in text.splitlines()))
    return parser
