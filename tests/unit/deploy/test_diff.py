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


from glance_dcn.deploy import diff
from glance_dcn.deploy import files
from glance_dcn.deploy import render
from glance_dcn.deploy import tripleo
from tests.unit.deploy import base

_API = 'etc/glance/glance-api.conf.d/glance-dcn.conf'
_OTHER_KEY = 'AQBO/mteAAAAABAAc4mVMTpq7OFtrPlRFqN+FQ=='


class DiffTestCase(base.SitesFileTestCase):

    def rendered(self, site, text=base.SITES, render=render.plain):
        found = self.load(text)
        return render(found, found.site(site))[0].files


class TestRunning(DiffTestCase):

    def setUp(self):
        super().setUp()
        self.node = self.folder / 'node'
        self.files = self.rendered('dcn0')
        files.write(self.node, self.files)

    def changes(self, rendered=None):
        found = diff.with_folder(rendered or self.files, self.node)
        # Whatever differs, it is not said.
        for secret in (base.KEY, _OTHER_KEY, 'pa$'):
            self.assertNotIn(secret, str(found))
        return found

    def edit(self, path, old, new):
        path = self.node / path
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new))

    def test_nothing(self):
        self.assertEqual([], self.changes())

    def test_comments_and_order_do_not_count(self):
        path = self.node / 'etc/ceph/central.conf'
        path.write_text('# by hand\n[client.glance-dcn0]\nkeyring=%s\n'
                        '[global]\n'
                        'mon_host=172.16.11.84,172.16.11.87\nfsid = %s\n' % (
                            '/etc/ceph/central.client.glance-dcn0.keyring',
                            base.FSIDS[1]))
        self.assertEqual([], self.changes())

    def test_options(self):
        self.edit(_API, 'default_backend = dcn0', 'default_backend = central')
        self.edit(_API, 'output_format = raw\n', '')
        self.edit(_API, '[database]',
                  '[paste_deploy]\nconfig_file = x\n[database]')
        self.assertEqual([diff.Change(_API, diff.CHANGED, (
            '! [glance_store] default_backend = dcn0, was central',
            '+ [image_conversion] output_format = raw',
            '- [paste_deploy] config_file = x'))], self.changes())

    def test_value_of_several_lines(self):
        self.edit(_API, 'enabled_backends = dcn0:dcn,central:dcn',
                  'enabled_backends = dcn0:dcn,\n  central:rbd')
        self.assertEqual([diff.Change(_API, diff.CHANGED, (
            '! [DEFAULT] enabled_backends = dcn0:dcn,central:dcn, '
            'was dcn0:dcn, central:rbd',))], self.changes())

    def test_wrong_cluster(self):
        self.edit('etc/ceph/central.conf', base.FSIDS[1], base.FSIDS[2])
        self.assertEqual([diff.Change('etc/ceph/central.conf', diff.CHANGED, (
            '! [global] fsid = %s, was %s' % (base.FSIDS[1], base.FSIDS[2]),
        ))], self.changes())

    def test_secrets(self):
        keyring = 'etc/ceph/dcn0.client.external.keyring'
        self.edit(keyring, base.KEY, _OTHER_KEY)
        self.edit(_API, 'pa$$$$s', 'other')
        self.edit(_API, '[database]',
                  '[database]\nslave_connection = mysql://u:pa$s@h/g\n'
                  '[keystone_authtoken]\npassword = pa$s\n'
                  'username = glance\n[database]')
        self.assertEqual([
            diff.Change(keyring, diff.CHANGED,
                        ('! [client.external] key differs (secret)',)),
            diff.Change(_API, diff.CHANGED, (
                '! [database] connection differs (secret)',
                '- [database] slave_connection = (secret)',
                '- [keystone_authtoken] password = (secret)',
                '- [keystone_authtoken] username = glance'))],
            self.changes())

    def test_not_there(self):
        (self.node / _API).unlink()
        self.assertEqual([diff.Change(_API, diff.ADDED)], self.changes())

    def test_mode(self):
        path = 'etc/ceph/dcn0.client.external.keyring'
        (self.node / path).chmod(0o644)
        self.assertEqual([diff.Change(path, diff.CHANGED, (
            'mode is 0644, and should be 0600',))], self.changes())
        # A group may have been given the right to read it.
        (self.node / path).chmod(0o640)
        self.assertEqual([], self.changes())

    def test_files_that_cannot_be_compared(self):
        path = self.node / _API
        path.write_bytes(b'\xff\xfe')
        self.assertEqual([diff.Change(_API, diff.UNREADABLE,
                                      ('it is no text in UTF-8',))],
                         self.changes())
        path.unlink()
        path.symlink_to('/dev/zero')
        self.assertEqual([diff.UNREADABLE],
                         [change.kind for change in self.changes()])
        path.unlink()
        path.write_text('hello\n')
        path.chmod(0o640)
        self.assertEqual([('it is no conf file',)],
                         [change.details for change in self.changes()])

    def test_site_files_that_are_left(self):
        text = 'paths: {sites: /etc/glance/sites.d}\n' + base.SITES
        rendered = self.rendered('central', text)
        files.write(self.node, rendered)
        left = self.node / 'etc/glance/sites.d/dcn9.conf'
        left.write_text('[dcn9]\n')
        self.assertEqual(
            [diff.Change('etc/glance/sites.d/dcn9.conf', diff.REMOVED)],
            self.changes(rendered))


class TestSitesFiles(DiffTestCase):

    more = base.SITES + """\
- name: dcn2
  cluster:
    fsid: %s
    mons: [172.16.11.200]
    key: {file: dcn2.keyring}
  at_central: {key: {file: guests.keyring}}
  from_central: {key: {file: guests.keyring}}
""" % base.FSIDS[5]

    def changes(self, site, before, after, render=render.plain):
        found = diff.with_rendered(
            self.rendered(site, before, render),
            self.rendered(site, after, render))
        self.assertNotIn(base.KEY, str(found))
        return found

    def test_another_site_changes_central(self):
        found = self.changes('central', base.SITES, self.more)
        self.assertEqual([
            ('etc/ceph/dcn2.client.glance-central.keyring', diff.ADDED),
            ('etc/ceph/dcn2.conf', diff.ADDED), (_API, diff.CHANGED)],
            [(change.path, change.kind) for change in found])
        self.assertIn('+ [dcn2] rbd_store_ceph_conf = /etc/ceph/dcn2.conf',
                      found[2].details)

    def test_another_site_changes_no_edge(self):
        for site in ('dcn0', 'dcn1', 'far'):
            self.assertEqual([], self.changes(site, base.SITES, self.more))

    def test_another_site_with_sites_dir(self):
        top = 'paths: {sites: /etc/glance/sites.d}\n'
        self.assertEqual([
            ('etc/ceph/dcn2.client.glance-central.keyring', diff.ADDED),
            ('etc/ceph/dcn2.conf', diff.ADDED),
            ('etc/glance/sites.d/dcn2.conf', diff.ADDED)],
            [(change.path, change.kind) for change in self.changes(
                'central', top + base.SITES, top + self.more)])

    def test_site_taken_away(self):
        self.assertEqual(
            {diff.REMOVED, diff.CHANGED}, {
                change.kind for change in self.changes(
                    'central', self.more, base.SITES)})

    def test_environment_files(self):
        found = self.changes('central', base.SITES, self.more, tripleo.render)
        self.assertEqual(['ceph_external.yaml', 'ceph_keys.yaml',
                          'glance.yaml'],
                         [change.path for change in found])
        self.assertIn('+      key: (secret)', found[0].details)

    def test_another_key(self):
        before = self.rendered('dcn0', render=tripleo.render)
        self.write_secret('guests.keyring', ''.join(
            '[client.%s]\n\tkey = %s\n' % user for user in (
                ('glance-central', _OTHER_KEY), ('glance-dcn0', base.KEY))))
        after = self.rendered('dcn0', render=tripleo.render)
        self.assertEqual([diff.Change('ceph_keys.yaml', diff.CHANGED,
                                      ('! a secret differs',))],
                         diff.with_rendered(before, after))
