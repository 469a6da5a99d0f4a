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

"""The check of what stands in Glance's files, with its real options."""

import pathlib
import subprocess
import sys

import fixtures
from oslotest import base

_CONF = """\
[DEFAULT]
enabled_backends = central:dcn,edge:dcn
worker_self_reference_url = http://10.0.0.1:9292
[database]
connection = sqlite://
[glance_store]
default_backend = central
[keystone_authtoken]
auth_url = http://10.0.0.5
username = glance
[central]
rbd_store_ceph_conf = /etc/ceph/central.conf
rbd_thin_provisioning = true
store_description = x
rados_connect_timeout = 5
[edge]
rbd_store_ceph_conf = /etc/ceph/edge.conf
dcn_max_transfers = 3
[glance_dcn]
direct_copy = true
[paste_deploy]
flavor = keystone
[some_middleware]
its_option = 1
"""
# It reads into the one configuration that a process has.
_LOOK = """\\
import sys, types
from glance_dcn.checks import runner, registry
from glance_dcn.checks import subjects
from glance_dcn.cmd import node
for path in sys.argv[1:]:
    conf = node.read_all(types.SimpleNamespace(
        config_file=[path], config_dir=[]))
    for name in ('stores', 'spelling'):
        finding = registry.CHECKS[name].run(subjects.Node(conf, None, 0))
        if finding.level == 'fail':
            break
    print(finding.level, finding.text)
    conf.reset()
"""


class TestSpelling(base.BaseTestCase):

    def look(self, *changes):
        """Return what is found of configurations, changed by (old, new)."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        paths = []
        for number, (old, new) in enumerate(changes):
            self.assertIn(old, _CONF)
            paths.append(folder / ('%d.conf' % number))
            paths[-1].write_text(_CONF.replace(old, new, 1))
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', _LOOK, *paths], text=True,
            capture_output=True, timeout=120, check=False)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout.splitlines()

    def test_good(self):
        [found] = self.look(('x', 'x'))
        self.assertRegex(found, 'ok 1[0-9] options')

    def test_slips(self):
        cases = (
            ('edge:dcn', 'edge:dnc', 'fail store edge has type dnc, of which '
             'there is no driver (did you mean dcn?)'),
            ('[glance_dcn]', '[glance_dnc]', 'warn section [glance_dnc]'),
            ('[central]', '[centrall]', 'did you mean [central]?'),
            ('dcn_max_transfers = 3', 'dcn_max_transfers = many',
             'fail option dcn_max_transfers in [edge] cannot have'),
            ('direct_copy = true', 'dcn_max_clients = many',
             'fail option dcn_max_clients in [glance_dcn] cannot have'),
            # Of a store that is none any more.
            ('[some_middleware]', '[far]\nrbd_store_pool = images',
             'warn section [far]'),
            ('dcn_max_transfers', 'dcn_max_transfer',
             'warn option dcn_max_transfer in [edge]'),
            ('direct_copy', 'direct_copies', 'did you mean direct_copy?'),
            ('worker_self_reference_url', 'worker_self_refrence_url',
             'did you mean worker_self_reference_url?'),
            ('default_backend', 'default_backends',
             'default_backend is None'))
        for (_old, _new, expected), found in zip(cases, self.look(
                *((old, new) for old, new, _expected in cases))):
            self.assertIn(expected, found)
