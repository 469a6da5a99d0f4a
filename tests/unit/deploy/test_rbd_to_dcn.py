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

import pathlib
import subprocess

from oslo_config import cfg
from oslotest import base

_SCRIPT = pathlib.Path(__file__).parents[3] / 'packaging/rbd-to-dcn.sed'


class RbdToDcnTest(base.BaseTestCase):
    """The commands that change the stores of an OpenStackControlPlane."""

    def change(self, text):
        return subprocess.run(
            ['sed', '-E', '-f', _SCRIPT], check=True, text=True, input=text,
            stdout=subprocess.PIPE).stdout

    def options(self, text):
        """Return what a file says, as oslo.config reads it."""
        path = self.create_tempfiles([('glance', text)])[0]
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[path])
        conf.register_opts([cfg.DictOpt('enabled_backends'),
                            cfg.ListOpt('enabled_import_methods',
                                        bounds=True),
                            cfg.StrOpt('debug')])
        conf.register_opt(cfg.ListOpt('image_import_plugins', bounds=True),
                          'image_import_opts')
        conf.register_opt(cfg.StrOpt('output_format'), 'image_conversion')
        conf.register_opt(cfg.StrOpt('default_backend'), 'glance_store')
        return conf

    def check(self, text, methods=('web-download', 'glance-direct',
                                   'copy-image')):
        changed = self.change(text)
        conf = self.options(changed)
        self.assertEqual({'a': 'dcn', 'b': 'dcn', 'c': 'swift'},
                         conf.enabled_backends)
        self.assertEqual([*methods], conf.enabled_import_methods)
        self.assertEqual(['dcn_distributed_staging', 'dcn_image_conversion'],
                         conf.image_import_opts.image_import_plugins)
        self.assertEqual('raw', conf.image_conversion.output_format)
        self.assertEqual(('1', 'a'), (conf.debug,
                                      conf.glance_store.default_backend))
        self.assertEqual(changed, self.change(changed))

    def test_store_section_last(self):
        self.check('[DEFAULT]\nenabled_backends = a:rbd,b:rbd,c:swift\n'
                   'debug = 1\n[glance_store]\ndefault_backend = a\n')

    def test_store_section_first(self):
        self.check('[glance_store]\ndefault_backend = a\n[DEFAULT]\n'
                   'debug = 1\nenabled_backends=a:rbd,b:rbd,c:swift\n')

    def test_methods_that_are_chosen(self):
        stores = 'enabled_backends = a:rbd,b:rbd,c:swift\n'
        chosen = 'enabled_import_methods = [copy-image]\n'
        for lines in (stores + chosen, chosen + stores):
            self.check('[DEFAULT]\ndebug = 1\n%s[glance_store]\n'
                       'default_backend = a\n' % lines, ['copy-image'])

    def test_no_store_in_ceph(self):
        text = '[DEFAULT]\nenabled_backends = a:swift,rbd:file\n'
        self.assertEqual(text, self.change(text))
