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

"""Our options beside stock's, and the sample file beside our options."""

import io
import pathlib

from glance_store._drivers import rbd as stock
from oslo_config import cfg
from oslo_config import generator
from oslotest import base

from glance_dcn import opts
from glance_dcn.store import options
from tests import releases

_ROOT = pathlib.Path(__file__).parents[2]


class TestSample(base.BaseTestCase):

    def test_is_current(self):
        conf = cfg.ConfigOpts()
        generator.register_cli_opts(conf)
        conf(['--config-file', str(
            _ROOT / 'etc/oslo-config-generator/glance-dcn.conf')])
        written = io.StringIO()
        generator.generate(conf, output_file=written)
        self.assertEqual(
            (_ROOT / 'etc/glance-dcn.conf.sample').read_text(),
            written.getvalue(), 'run "tox -e genconfig"')


class TestOptions(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.ours = {opt.name: opt for opt in options.STORE_OPTS}
        self.stock = {opt.name: opt for opt in stock.Store.OPTIONS}

    def test_every_option_of_stock_is_ours(self):
        # A store goes from rbd to dcn by one word: nothing that was valid
        # for rbd may be unknown to dcn, or mean something else.
        for name, theirs in self.stock.items():
            self.assertIn(name, self.ours)
            ours = self.ours[name]
            self.assertIs(type(theirs), type(ours), name)
            self.assertEqual(theirs.type, ours.type, name)
            self.assertEqual(theirs.dest, ours.dest)

    @releases.since(28)
    def test_defaults_are_those_of_stock(self):
        for name, theirs in self.stock.items():
            self.assertEqual(theirs.default, self.ours[name].default, name)

    def test_what_stock_does_not_have_begins_with_dcn(self):
        for name in set(self.ours) - set(self.stock):
            self.assertTrue(name.startswith('dcn_'), name)

    def test_every_option_has_help(self):
        for _group, listed in opts.list_opts():
            for opt in listed:
                self.assertTrue((opt.help or '').strip(), opt.name)
