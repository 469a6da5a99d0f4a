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


import contextlib
import io
import json
import os

from glance_dcn.cmd import main
from glance_dcn.deploy import render
from tests.unit.deploy import base


_API = 'etc/glance/glance-api.conf.d/glance-dcn.conf'


class CommandTestCase(base.SitesFileTestCase):

    def setUp(self):
        super().setUp()
        self.path.write_text(base.SITES)
        self.output = self.folder / 'output'

    def run_command(self, *argv):
        """Run glance-dcn; keep its output, and return its exit status."""
        out, err = io.StringIO(), io.StringIO()
        argv = [str(arg) for arg in (*argv, '--sites-file', self.path)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main.main(argv)
            except SystemExit as exc:
                status = exc.code
        self.out, self.err = out.getvalue(), err.getvalue()
        # Whatever it does, it shows no secret.
        for secret in (base.KEY, 'pa$'):
            self.assertNotIn(secret, self.out + self.err)
        return status

    def written(self):
        """Return the paths of what is in the output folder."""
        return sorted(str(path.relative_to(self.output))
                      for path in self.output.rglob('*') if path.is_file())


class TestRender(CommandTestCase):

    def render(self, *argv, kind='plain'):
        return self.run_command('config', 'render', '--as', kind,
                                '--output', self.output, *argv)

    def test_one_site(self):
        self.assertEqual(0, self.render('--site', 'dcn0'))
        self.assertEqual([
            'etc/ceph/central.client.glance-dcn0.keyring',
            'etc/ceph/central.conf',
            'etc/ceph/dcn0.client.external.keyring', 'etc/ceph/dcn0.conf',
            'etc/glance/glance-api.conf.d/glance-dcn.conf'], self.written())
        self.assertEqual(0o600, (
            self.output / 'etc/ceph/dcn0.client.external.keyring'
        ).stat().st_mode & 0o777)
        self.assertIn('SITE', self.out)

    def test_again(self):
        self.render('--site', 'dcn0')
        before = {path: (self.output / path).stat().st_mtime_ns
                  for path in self.written()}
        self.assertEqual(0, self.render('--site', 'dcn0', '--format', 'json'))
        self.assertEqual({'unchanged'}, {
            file['state'] for file in json.loads(self.out)['files']})
        self.assertEqual(before, {
            path: (self.output / path).stat().st_mtime_ns
            for path in self.written()})

    def test_one_worker_of_a_site_with_several(self):
        self.assertEqual(0, self.render('--site', 'central',
                                        '--worker', '10.0.0.12'))
        self.assertIn('http://10.0.0.12:9292', (
            self.output / _API).read_text())

    def test_all(self):
        for kind, found in (
                ('plain', 'central/10.0.0.11/' + _API),
                ('kolla', 'dcn1/globals.d/glance-dcn.yml'),
                ('openstack-ansible', 'dcn1/user_zz_glance_dcn.yml'),
                ('tripleo', 'dcn1/glance.yaml'),
                ('operator', 'kustomization.yaml')):
            self.assertEqual(0, self.render('--all', kind=kind), self.err)
            self.assertIn(found, self.written())

    def test_notes(self):
        self.render('--site', 'dcn0', kind='tripleo')
        self.assertIn('Note: [database] is left to the parameters of TripleO',
                      self.out)

    def test_variables_that_do_not_count_any_more(self):
        self.output.mkdir()
        path = self.output / 'globals.yml'
        path.write_text('x: 1\nglance_ceph_backends: [a]\n')
        self.assertEqual(0, self.render('--site', 'dcn0', kind='kolla'))
        self.assertIn('Note: glance_ceph_backends of %s does not count any '
                      'more' % path, self.out)

    def test_dry_run(self):
        self.assertEqual(0, self.render('--site', 'dcn0', '--dry-run'))
        self.assertIn('new', self.out)
        self.assertIn('Note: nothing was written', self.out)
        self.assertFalse(self.output.exists())

    def test_what_others_have_written_stays(self):
        """Onto a node with a Glance, and with another client of Ceph."""
        api = self.output / 'etc/glance/glance-api.conf'
        api.parent.mkdir(parents=True)
        own = ('[DEFAULT]\nenabled_backends = dcn0:rbd\ndebug = true\n'
               '[keystone_authtoken]\npassword = s3cret\n')
        api.write_text(own)
        ceph = self.output / 'etc/ceph/dcn0.conf'
        ceph.parent.mkdir()
        ceph.write_text('# of the deployer\n[global]\nfsid = %s\n'
                        'mon host = 10.9.9.9\nms mode = secure\n\n'
                        '[client.nova]\nkeyring = /etc/ceph/nova\n'
                        % base.FSIDS[2])
        self.assertEqual(0, self.render('--site', 'dcn0'), self.err)
        self.assertEqual(own, api.read_text())
        self.assertIn('says [DEFAULT] enabled_backends otherwise', self.out)
        self.assertNotIn('debug', self.out)
        self.assertEqual(
            '# of the deployer\n[global]\nfsid = %s\n'
            'mon_host = 172.16.11.61\nms mode = secure\n\n'
            '[client.nova]\nkeyring = /etc/ceph/nova\n\n[client.external]\n'
            'keyring = /etc/ceph/dcn0.client.external.keyring\n'
            % base.FSIDS[2], ceph.read_text())
        self.assertIn('10.9.9.9', (ceph.parent / 'dcn0.conf.bak').read_text())
        self.assertEqual(0, self.render('--site', 'dcn0', '--format', 'json'))
        self.assertEqual({'unchanged'}, {
            file['state'] for file in json.loads(self.out)['files']})
        self.assertEqual(0, self.run_command('config', 'diff', '--site',
                                             'dcn0', self.output))

    def test_section_that_would_be_lost(self):
        path = self.output / _API
        path.parent.mkdir(parents=True)
        path.write_text('[DEFAULT]\n[keystone_authtoken]\npassword = x\n')
        self.assertEqual(2, self.render('--site', 'dcn0'))
        self.assertIn('[keystone_authtoken], which is not rendered',
                      self.err)
        self.assertEqual([_API], self.written())

    def test_conf_file_of_another_cluster(self):
        ceph = self.output / 'etc/ceph/dcn0.conf'
        ceph.parent.mkdir(parents=True)
        ceph.write_text('[global]\nfsid = %s\n[client.nova]\nkey = x\n'
                        % base.FSIDS[8])
        self.assertEqual(2, self.render('--site', 'dcn0'))
        self.assertIn('its fsid is that of another cluster', self.err)
        self.assertEqual(['etc/ceph/dcn0.conf'], self.written())

    def test_conf_file_that_glance_may_not_read(self):
        ceph = self.output / 'etc/ceph/dcn0.conf'
        ceph.parent.mkdir(parents=True)
        ceph.write_text('[client.nova]\nkey = x\n')
        ceph.chmod(0o600)
        for argv in (['--dry-run'], []):
            self.assertEqual(0, self.render('--site', 'dcn0', '--format',
                                            'json', *argv), self.err)
            found = json.loads(self.out)
            self.assertEqual(['0600'], [
                file['mode'] for file in found['files']
                if file['file'] == 'etc/ceph/dcn0.conf'])
            self.assertIn('%s has what others have written' % ceph,
                          found['notes'][0])

    def test_keys_of_others_stay(self):
        keyring = self.output / 'etc/ceph/central.client.glance-dcn0.keyring'
        keyring.parent.mkdir(parents=True)
        keyring.write_text('[client.nova]\n\tkey = x\n\tcaps mon = "y"\n'
                           '[client.glance-dcn0]\n\tkey = old\n')
        self.assertEqual(0, self.render('--site', 'dcn0'))
        self.assertEqual(
            '[client.nova]\n\tkey = x\n\tcaps mon = "y"\n'
            '[client.glance-dcn0]\n\tkey = %s\n' % base.KEY,
            keyring.read_text())

    def test_conf_file_that_is_none(self):
        ceph = self.output / 'etc/ceph/dcn0.conf'
        ceph.parent.mkdir(parents=True)
        ceph.write_text('nonsense\n')
        self.assertEqual(2, self.render('--site', 'dcn0'))
        self.assertIn('dcn0.conf:1: ', self.err)
        self.assertEqual(['etc/ceph/dcn0.conf'], self.written())

    def test_wrong_arguments(self):
        for argv, reason in (
                (['--site', 'dcn9'], "no site 'dcn9' (did you mean 'dcn"),
                (['--site', 'central', '--worker', 'x'],
                 'has no worker \'x\'; it has: 10.0.0.11, 10.0.0.12'),
                (['--all', '--worker', 'x'], 'needs one --site'),
                (['--all', '--site', 'dcn0'], 'not allowed with'),
                ([], 'is required'),
                (['--all', '--group', 'no-such-group'], 'no group')):
            self.assertEqual(2, self.render(*argv))
            self.assertIn(reason, self.err)
            self.assertFalse(self.output.exists())

    def test_bad_sites_file_writes_nothing(self):
        for text, reason in (
                (base.SITES.replace('dcn1', 'dcn0'), ':23: site dcn0 has'),
                (base.SITES.replace('limits:', 'limit:'),
                 ":22: a site has no key 'limit'"),
                ('#' * (10 << 20), ':1: the file is larger'),
                ('[' * 100000, ':1: it is nested deeper')):
            self.path.write_text(text)
            self.assertEqual(2, self.render('--all'))
            self.assertEqual(1, self.err.count('\n'))
            self.assertIn('glance-dcn: %s%s' % (self.path, reason), self.err)
            self.assertFalse(self.output.exists())

    def test_key_that_cannot_be_had_writes_nothing(self):
        before, found, after = base.SITES.rpartition(
            'from_central: {key: {file: guests')
        self.path.write_text(before + found.replace('guests', 'absent')
                             + after)
        for kind in render.KINDS:
            self.assertEqual(2, self.render('--all', kind=kind))
            self.assertIn('sites.yaml:29: ', self.err)
            self.assertFalse(self.output.exists())
        self.assertEqual(0, self.render('--site', 'dcn0'))


class TestDiff(CommandTestCase):

    def setUp(self):
        super().setUp()
        self.run_command('config', 'render', '--as', 'plain', '--site',
                         'dcn0', '--output', self.output)

    def diff(self, *argv):
        return self.run_command('config', 'diff', *argv)

    def test_same(self):
        self.assertEqual(0, self.diff('--site', 'dcn0', self.output))
        self.assertEqual('Nothing differs.\n', self.out)

    def test_different(self):
        api = self.output / _API
        api.write_text(api.read_text().replace('pa$$$$s', 'x'))
        self.assertEqual(1, self.diff('--site', 'dcn0', self.output))
        self.assertEqual(
            'dcn0  changed  %s\n'
            '    ! [database] connection differs (secret)\n' % _API, self.out)
        self.assertEqual(1, self.diff('--site', 'dcn0', self.output,
                                      '--format', 'json'))
        self.assertEqual({'changes': [{
            'site': 'dcn0', 'node': '', 'file': _API,
            'what': 'changed',
            'details': ['! [database] connection differs (secret)'],
        }]}, json.loads(self.out))

    def test_older_sites_file(self):
        old = self.folder / 'old.yaml'
        old.write_text(base.SITES[:base.SITES.index('- name: dcn1')])
        self.assertEqual(1, self.diff('--from', old, '--format', 'json'))
        changed = {}
        for change in json.loads(self.out)['changes']:
            changed.setdefault((change['site'], change['node']), []).append(
                (change['what'], os.path.basename(change['file'])))

        def new(site):
            return [('added', name) for name in (
                'central.client.glance-%s.keyring' % site, 'central.conf',
                'dcn1.client.external.keyring', 'dcn1.conf',
                'glance-dcn.conf')]
        at_central = [('added', 'dcn1.client.glance-central.keyring'),
                      ('added', 'dcn1.conf'), ('changed', 'glance-dcn.conf')]
        self.assertEqual({
            ('central', '10.0.0.11'): at_central,
            ('central', '10.0.0.12'): at_central, ('dcn1', ''): new('dcn1'),
            ('far', ''): [entry for entry in new('far')
                          if not entry[1].startswith('dcn1')],
        }, changed)
        for kind in render.KINDS[1:]:
            self.assertEqual(1, self.diff('--from', old, '--as', kind,
                                          '--site', 'central'))
            self.assertIn('dcn1', self.out)
            self.assertEqual(0, self.diff('--from', old, '--as', kind,
                                          '--site', 'dcn0'))

    def test_wrong_arguments(self):
        old = self.folder / 'old.yaml'
        for argv, reason in (
                ([], 'give either'),
                ([self.output, '--from', old], 'give either'),
                ([self.output], 'with one --site'),
                (['--site', 'central', self.output], 'say with --worker'),
                (['--site', 'dcn0', '--as', 'tripleo', self.output],
                 '--as plain'),
                (['--site', 'dcn9', '--from', self.path], "no site 'dcn9'"),
                (['--from', old], 'old.yaml: it cannot be read')):
            self.assertEqual(2, self.diff(*argv))
            self.assertIn(reason, self.err)


class TestHelp(CommandTestCase):

    def test_teaches(self):
        for argv in (['config', 'render'], ['config', 'diff'],
                     ['site', 'import'], ['site', 'key']):
            self.assertEqual(0, self.run_command(*argv, '--help'))
            self.assertIn('examples:', self.out)
            self.assertIn('exit status:', self.out)
