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


"""The plugin of ansible-config-template, for an ansible newer than it is."""

import importlib.util
import pathlib
import sys

from ansible.parsing.yaml import dumper
from ansible import template
import yaml

# It looks at the bases of what has been a function since ansible-core 2.19.
dumper.AnsibleDumper = type('AnsibleDumper', (yaml.SafeDumper,), {})
_spec = importlib.util.spec_from_file_location('ansible_config_template', (
    pathlib.Path(sys.prefix)
    / 'share/ansible/plugins/action/config_template.py'))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


class ActionModule(_module.ActionModule):

    def _check_templar(self, data, extra):
        # Since the same release only what is said to be trusted is one.
        return super()._check_templar(template.trust_as_template(data), extra)
