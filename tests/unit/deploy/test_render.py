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

"""The files of as many sites as a deployment may have."""

import os
import pathlib
import runpy

from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import render
from tests.unit.deploy import base

_TOOL = pathlib.Path(__file__).parents[3] / 'tools/measure-rendering.py'
_SITES = 200
# Of each site, as the tool makes them.
_WORKERS = 3
# Seconds of CPU time, which hardly grows with other work on the machine. It
# takes less than one: so long it takes if every pair of sites costs something.
_LIMIT = 30


class TestManySites(base.SitesFileTestCase):

    def written(self, kind):
        """Render all sites, and return the paths of what is written."""
        self.path.write_text(runpy.run_path(str(_TOOL))['sites_file'](_SITES))
        self.write_secret('key', base.KEY)
        output = self.folder / 'output'
        # Not that of the kernel, which depends on the state of the machine.
        began = os.times().user
        deployment = load.load(self.path)
        placed = render.placed(render.render(deployment, deployment.sites,
                                             kind))
        files.write(os.fspath(output), [file for _node, file in placed])
        self.assertLess(os.times().user - began, _LIMIT)
        # None is written twice.
        self.assertEqual(len(placed), len({file.path
                                           for _node, file in placed}))
        found = set()
        for folder, _folders, names in os.walk(output):
            where = os.path.relpath(folder, output)
            found.update(os.path.normpath(os.path.join(where, name))
                         for name in names)
        return found

    def ceph(self, number):
        """Return the names of conf files and keyrings that a site needs."""
        # Those of its own cluster and of central's; central has all.
        guest = 'glance-site%d' % number if number else 'glance-central'
        return ['site%d%s' % (other, suffix)
                for other in (range(_SITES) if not number else (0, number))
                for suffix in ('.conf', '.client.%s.keyring' % (
                    'glance' if other == number else guest))]

    def test_plain(self):
        self.assertEqual({
            'site%d/11.0.%d.%d/etc/%s' % (number, number, worker, name)
            for number in range(_SITES) for worker in range(1, _WORKERS + 1)
            for name in ['glance/glance-api.conf.d/glance-dcn.conf',
                         *('ceph/' + name for name in self.ceph(number))]
        }, self.written('plain'))

    def test_kolla(self):
        self.assertEqual({
            'site%d/%s' % (number, name) for number in range(_SITES)
            for name in ('globals.d/glance-dcn.yml',
                         'config/glance/glance-image-import.conf',
                         *('config/glance/' + name
                           for name in self.ceph(number)))
        }, self.written('kolla'))

    def test_tripleo(self):
        self.assertEqual({
            'site%d/%s.yaml' % (number, name) for number in range(_SITES)
            for name in ('glance', 'ceph_external', 'ceph_keys')
        }, self.written('tripleo'))

    def test_operator(self):
        self.assertEqual({
            'kustomization.yaml', 'glance.yaml',
            *('ceph/site%d/%s' % (number, name) for number in range(_SITES)
              for name in self.ceph(number))}, self.written('operator'))
