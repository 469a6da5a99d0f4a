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

"""How a task queue is told of a configuration."""

import subprocess
import sys

from oslo_config import cfg
from oslo_db import options
from oslotest import base

from glance_dcn.tasks import deployment

_PROGRAM = """
from glance.common import config
from glance_dcn.tasks import deployment
import sys
config.CONF([], default_config_files=[sys.argv[1]])
config.CONF.register_opts(deployment.OPTS, group=deployment.GROUP)
print(deployment.deployment_id(config.CONF))
"""


def configured(**values):
    """Return a configuration with options of group database."""
    conf = cfg.ConfigOpts()
    conf.register_opts(deployment.OPTS, group=deployment.GROUP)
    conf([])
    if values:
        conf.register_opts(options.database_opts, group='database')
    for name, value in values.items():
        conf.set_override(name, value, 'database')
    return conf


class DeploymentTest(base.BaseTestCase):

    def of(self, connection):
        return deployment.deployment_id(configured(connection=connection))

    def test_by_the_database(self):
        first = self.of('mysql+pymysql://u:one@host:3306/glance?charset=utf8')
        self.assertRegex(first, '^[0-9a-f]{16}$')
        # Credentials are rotated.
        self.assertEqual(first, self.of(
            'mysql+pymysql://v:two@host:3306/glance?charset=utf8'))
        self.assertNotEqual(first, self.of(
            'mysql+pymysql://u:one@host:3306/glance2'))

    def test_chosen(self):
        conf = configured(connection='mysql+pymysql://u:p@host/glance')
        conf.set_override('deployment_id', 'mine', deployment.GROUP)
        self.assertEqual('mine', deployment.deployment_id(conf))

    def test_without_a_database(self):
        self.assertEqual('', deployment.deployment_id(configured()))

    def test_before_glance_has_asked_its_database(self):
        # Glance registers the option when it first does, which is after its
        # stores were configured.
        folder = self.create_tempfiles([('glance-api', (
            '[database]\nconnection = mysql+pymysql://u:p@host/glance\n'))],
            ext='.conf')
        done = subprocess.run([sys.executable, '-c', _PROGRAM, *folder],
                              capture_output=True, text=True, check=True)
        self.assertEqual(self.of('mysql+pymysql://u:p@host/glance'),
                         done.stdout.strip())
