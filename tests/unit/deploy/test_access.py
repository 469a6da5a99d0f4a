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

"""Which rights each Glance gets at each cluster, in all forms."""

import yaml

from glance_dcn.deploy import cephconf
from glance_dcn.deploy import model
from glance_dcn.deploy import operator
from glance_dcn.deploy import render
from glance_dcn.deploy import sitesfile
from glance_dcn.deploy import tripleo
from tests.unit.deploy import base
from tests.unit.deploy import loading

OWNER, READ_WRITE, READ_ONLY = model.Access
_WIDE = 'edge_access: read-write\n' + base.SITES


class TestCaps(base.SitesFileTestCase):

    def test_of_each_access(self):
        self.assertEqual(
            {'mgr': 'profile rbd', 'mon': 'profile rbd',
             'osd': 'profile rbd pool=vms, profile rbd pool=images'},
            cephconf.caps(['vms', 'images']))
        self.assertEqual(
            {'mon': 'profile rbd',
             'osd': "profile rbd pool=images namespace=''"},
            cephconf.caps(['images'], READ_WRITE))
        self.assertEqual(
            {'mon': 'profile simple-rados-client',
             'osd': "allow r class-read pool=images namespace=''"},
            cephconf.caps(['images'], READ_ONLY))

    def test_for_a_shell(self):
        self.assertEqual(
            "mgr 'profile rbd' mon 'profile rbd' osd 'profile rbd pool=i'",
            cephconf.as_arguments(cephconf.caps(['i'])))
        self.assertEqual(
            'mon \'profile rbd\' osd "profile rbd pool=i namespace=\'\'"',
            cephconf.as_arguments(cephconf.caps(['i'], READ_WRITE)))


class TestRights(base.SitesFileTestCase):

    def rights(self, text=base.SITES):
        """Return user and access by (site of the Glance, store)."""
        found = self.load(text)
        return {(site.name, other.store): (other.cluster.user,
                                           other.cluster.access)
                for site in found.sites for other in found.stores_of(site)}

    def test_by_default(self):
        self.assertEqual({
            ('central', 'central'): ('external', OWNER),
            ('central', 'dcn0'): ('glance-central', READ_WRITE),
            ('central', 'dcn1'): ('glance-central', READ_WRITE),
            ('dcn0', 'dcn0'): ('external', OWNER),
            ('dcn0', 'central'): ('glance-dcn0', READ_ONLY),
            ('dcn1', 'dcn1'): ('external', OWNER),
            ('dcn1', 'central'): ('glance-dcn1', READ_ONLY),
            ('far', 'central'): ('glance-far', READ_ONLY),
        }, self.rights())

    def test_edges_that_may_write(self):
        found = self.rights(_WIDE.replace(
            '- name: dcn1\n', '- name: dcn1\n  edge_access: read-only\n'))
        self.assertEqual(('glance-dcn0', READ_WRITE),
                         found['dcn0', 'central'])
        self.assertEqual(('glance-dcn1', READ_ONLY), found['dcn1', 'central'])
        # There is no other place for its records.
        self.assertEqual(('glance-far', OWNER), found['far', 'central'])

    def test_pools_of_others_are_not_for_guests(self):
        found = self.load(base.SITES.replace(
            'user: external', 'user: external\n  extra_pools: [vms]'))
        for site in found.sites:
            self.assertEqual(
                [('vms',) if other.name == site.name else ()
                 for other in found.stores_of(site)],
                [other.cluster.extra_pools
                 for other in found.stores_of(site)])

    def test_mistakes(self):
        edge = '- name: dcn0\n'
        for line, reason, text in (
                (1, "'all' cannot be the edge_access",
                 'edge_access: all\n' + base.SITES),
                (9, 'no edge', base.SITES.replace(
                    '  central: true\n',
                    '  central: true\n  edge_access: read-only\n')),
                (9, 'at_central and from_central are for the others',
                 base.SITES.replace(
                     '  central: true\n', '  central: true\n'
                     '  at_central: {user: x}\n')),
                (34, 'has no cluster for the central Glance',
                 base.SITES + '  from_central: {user: x}\n'),
                (15, 'that of central itself', base.SITES.replace(
                    edge, edge + '  at_central: {user: external}\n').replace(
                        '  at_central: {key: {file: guests.keyring}}\n', '',
                        1)),
                (15, 'is the user of site dcn0 itself', base.SITES.replace(
                    edge, edge + '  from_central: {user: external}\n'
                    ).replace('  from_central: {key: {file: '
                              'guests.keyring}}\n', '', 1))):
            self.assertRefused(line, reason, text)

    def test_one_user_with_two_kinds_of_rights(self):
        text = base.SITES.replace(
            'at_central: {key: {file: guests.keyring}}',
            'at_central: {user: shared}')
        self.load(text)
        exc = self.assertRaises(sitesfile.Mistake, self.load, text.replace(
            '- name: dcn1\n', '- name: dcn1\n  edge_access: read-write\n'))
        self.assertIn('site dcn1 cannot have client.shared at central: it is '
                      'that of site dcn0, which has other rights', str(exc))


class TestMistakes(base.SitesFileTestCase):

    def test_what_is_allowed_is_told(self):
        for text, key in (
                ('edge_access: readonly\n' + base.SITES, 'edge_access'),
                (base.SITES.replace(
                    '- name: dcn0\n', '- name: dcn0\n  operator: '
                    '{layout: singel}\n'), 'layout')):
            exc = self.assertRaises(sitesfile.Mistake, self.load, text)
            self.assertIn('cannot be the %s (did you mean' % key, str(exc))
        self.assertIn('it is one of: split, single', str(exc))
        exc = self.assertRaises(sitesfile.Mistake, self.load,
                                'edge_access: all\n' + base.SITES)
        self.assertIn("'all' cannot be the edge_access; it is one of: "
                      'read-only, read-write', str(exc))
        text = base.SITES.replace(
            '- name: dcn0\n',
            '- name: dcn0\n  operator: {storage_request: lots}\n')
        exc = self.assertRaises(sitesfile.Mistake, self.load, text)
        self.assertIn('such as 10G', str(exc))


class TestForms(base.SitesFileTestCase):

    def plain(self, site, text):
        """Return the configuration of a site's node, and the notes."""
        found = self.load(text)
        rendering = render.plain(found, found.site(site))[0]
        path = self.folder / 'glance-api.conf'
        path.write_text(next(file.text for file in rendering.files
                             if file.path.endswith('glance-dcn.conf')))
        return loading.conf_of(path), rendering.notes

    def expected(self, site, text):
        """Return what the nodes of a site are told of their rights."""
        conf, notes = self.plain(site, text)
        found = {name: conf[name].dcn_access
                 for name in conf.enabled_backends
                 if name not in loading.RESERVED}
        deployment = self.load(text)
        overlay = yaml.safe_load(next(
            file.text for file in operator.render(
                deployment, [deployment.site(site)])[0].files
            if file.path == 'glance.yaml'))
        config = overlay['spec']['glance']['template']['glanceAPIs'][site][
            'customServiceConfig']
        stack = tripleo.render(deployment, deployment.site(site))[0]
        extra = yaml.safe_load(stack.files[0].text)['parameter_defaults'][
            'ExtraConfig']['glance::config::image_import_config']
        for name, access in found.items():
            if access:
                self.assertIn('dcn_access = %s\n' % access, config)
                self.assertEqual({'value': access},
                                 extra['%s/dcn_access' % name])
        self.assertEqual(any(found.values()), 'dcn_access' in config)
        self.assertEqual(any(found.values()), any(
            name.endswith('dcn_access') for name in extra))
        return found, notes, stack.notes

    def test_nodes_know_their_rights(self):
        for site, wanted in (
                ('central', {'central': None, 'dcn0': None, 'dcn1': None}),
                ('dcn0', {'dcn0': None, 'central': 'read-only'}),
                ('far', {'central': 'read-only'})):
            found, notes, _stack = self.expected(site, base.SITES)
            self.assertEqual(wanted, found)
            self.assertEqual((), notes)

    def test_edges_that_may_write_are_noted(self):
        for site, words in (
                ('dcn0', 'site dcn0 may write at central (edge_access: '
                 'read-write): with its key, an attacker can change and '
                 'remove every image there'),
                ('far', 'and the records of central')):
            found, notes, stack = self.expected(site, _WIDE)
            self.assertEqual({None}, set(found.values()))
            self.assertIn(words, notes[0])
            self.assertIn(words, stack[-1])
        _found, notes, _stack = self.expected('central', _WIDE)
        self.assertEqual((), notes)

    def test_no_key_of_another_edge(self):
        found = self.load()
        names = [file.path for file in render.plain(
            found, found.site('dcn0'))[0].files if 'keyring' in file.path]
        self.assertEqual(['etc/ceph/dcn0.client.external.keyring',
                          'etc/ceph/central.client.glance-dcn0.keyring'],
                         names)
