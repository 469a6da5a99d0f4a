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


"""The sample and the guide beside the code."""

import pathlib
import re

from oslotest import base

from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import render

_ROOT = pathlib.Path(__file__).parents[3]


class TestGuide(base.BaseTestCase):

    def test_sample(self):
        found = load.load(_ROOT / 'etc/sites.yaml.sample')
        self.assertEqual(['central', 'dcn0', 'kiosk'],
                         [site.name for site in found.sites])
        self.assertEqual(3, len(render.node_names(found.central.workers)))

    def test_every_key_is_told(self):
        page = (_ROOT / 'doc/source/configuration/sites-file.rst').read_text()
        told = {name for line in page.splitlines()
                if re.fullmatch(r' *``[a-z_]+``(, ``[a-z_]+``)*', line)
                for name in re.findall('``([a-z_]+)``', line)}
        for keys in (load._TOP, load._SITE, load._CLUSTER, *map(
                load._keys, (model.Limits, model.Operator, model.Paths))):
            self.assertEqual(set(), set(keys) - told)

    def test_defaults_are_as_told(self):
        page = (_ROOT / 'doc/source/configuration/sites-file.rst').read_text()
        for value in (*model.IMPORT_METHODS, *model.IMPORT_PLUGINS,
                      model.Operator().storage_request,
                      model.Operator().address_pool, model.Paths().glance,
                      model.Paths().ceph, model.Paths().state):
            self.assertIn('``%s``' % value, page)
