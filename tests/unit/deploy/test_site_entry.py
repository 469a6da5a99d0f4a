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


import fixtures

from glance_dcn.deploy import site_entry
from glance_dcn.deploy import sitesfile
from tests.unit.deploy import base

_NEW = {'name': 'dcn7', 'cluster': {
    'fsid': base.FSIDS[7], 'mons': ['[v2:10.0.0.1:3300,v1:10.0.0.1:6789]']}}

_EXPORT = """\
parameter_defaults:
  CephExternalMultiConfig:
  - ceph_conf_overrides:
      client:
        keyring: /etc/ceph/dcn5.client.openstack.keyring
    cluster: dcn5
    dashboard_enabled: false
    external_cluster_mon_ips: 172.16.11.61, 172.16.11.64
    fsid: %s
    keys:
    - caps:
        mgr: allow *
        mon: profile rbd
        osd: profile rbd pool=vms, profile rbd pool=images
      key: %s
      mode: '0600'
      name: client.openstack
""" % (base.FSIDS[5], base.KEY)


class TestEntry(base.SitesFileTestCase):

    def added(self, text, *entries):
        """Return a sites file with entries."""
        self.path.write_text(text)
        return site_entry.prepare(self.path, entries or [_NEW])[0]

    def test_at_the_end(self):
        whole = self.added(base.SITES)
        self.assertTrue(whole.startswith(base.SITES))
        site = self.load(whole).site('dcn7')
        self.assertEqual((base.FSIDS[7],
                          '[v2:10.0.0.1:3300,v1:10.0.0.1:6789]'),
                         (site.cluster.fsid, site.cluster.mon_host))

    def test_all_other_bytes_stay(self):
        sites = base.SITES.partition('sites:\n')[2]
        for indent in ('', '  ', '      '):
            text = '# comment\r\nsites:   # those\n%s\n\n# paths\npaths:\n' \
                '  ceph: "/etc/ceph"\n# end' % ''.join(
                    indent + line for line in sites.splitlines(True))
            whole = self.added(text)
            start = whole.index('%s- name: dcn7' % indent)
            self.assertTrue(text.startswith(whole[:start]))
            rest = whole[start:].index('\n\n\n# paths')
            self.assertEqual(text, whole[:start] + whole[start + rest + 1:])

    def test_without_a_newline_at_the_end(self):
        whole = self.added(base.SITES.rstrip())
        self.assertTrue(whole.startswith(base.SITES))

    def test_new_file(self):
        whole, mode = site_entry.prepare(self.path, [dict(_NEW, central=True)])
        self.assertEqual((0o640, 'dcn7'), (mode, self.load(
            whole).central.name))
        self.assertRaises(sitesfile.Mistake, site_entry.prepare,
                          self.folder / 'new.yaml', [_NEW])

    def test_refused(self):
        for text, new, reason in (
                (base.SITES, dict(_NEW, name='dcn0'), 'the name dcn0'),
                (base.SITES, dict(_NEW, cluster=dict(
                    _NEW['cluster'], fsid=base.FSIDS[2])), 'pool images'),
                (base.SITES, dict(_NEW, name='a/b'), 'cannot be the name'),
                ('sites: [{name: a}]\n', _NEW, 'not listed line by line'),
                ('paths: {}\n', _NEW, 'not listed line by line'),
                ('sites:\n-\n  name: a\n', _NEW, 'line of its dash')):
            exc = self.assertRaises(sitesfile.Mistake, self.added, text, new)
            self.assertIn(reason, str(exc))
            self.assertEqual(text, self.path.read_text())

    def test_mode_stays_and_links_do(self):
        target = self.folder / 'real.yaml'
        target.write_text(base.SITES)
        target.chmod(0o604)
        self.path.symlink_to(target)
        site_entry.write(self.path, *site_entry.prepare(self.path, [_NEW]))
        self.assertTrue(self.path.is_symlink())
        self.assertEqual(0o604, target.stat().st_mode & 0o777)
        self.assertIn('dcn7', target.read_text())

    def test_group_stays(self):
        self.path.write_text(base.SITES)
        given = []
        self.useFixture(fixtures.MonkeyPatch(
            'os.fchown',
            lambda _fd, user, group: given.append((user, group))))
        site_entry.write(self.path, *site_entry.prepare(self.path, [_NEW]))
        self.assertEqual([(-1, self.path.stat().st_gid)], given)


class TestExport(base.SitesFileTestCase):

    def read(self, text):
        self.path.write_text(text)
        return site_entry.read_export(self.path)

    def test_clusters(self):
        [found] = self.read(_EXPORT)
        self.assertEqual(
            site_entry.Found('dcn5', base.FSIDS[5],
                             ['172.16.11.61', '172.16.11.64'], 'openstack',
                             base.KEY, ('vms', 'images')), found)
        self.assertNotIn(base.KEY, repr(found))

    def test_monitors(self):
        self.assertEqual(['[v2:a,v1:b]', 'c'],
                         site_entry.split_mon_host('[v2:a,v1:b], c,'))

    def test_what_is_none(self):
        for old, new, reason in (
                ('parameter_defaults', 'parameters', 'parameter_defaults'),
                ('CephExternalMultiConfig', 'X', 'CephExternalMultiConfig'),
                (base.FSIDS[5], 'x', 'fsid'),
                ('172.16.11.61', '"a%"', 'no YAML'),
                ('client.openstack\n', 'mon.\n', 'not the key of a client'),
                (base.KEY, 'x', 'not the key of a client'),
                ('    cluster: dcn5\n', '', 'cluster')):
            self.assertIn(old, _EXPORT)
            exc = self.assertRaises(sitesfile.Mistake, self.read,
                                    _EXPORT.replace(old, new))
            self.assertIn(reason, str(exc))
            self.assertNotIn(base.KEY, str(exc))
