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


"""Text of YAML files, in the order in which things are said."""

import yaml

from glance_dcn.deploy import conf

try:
    _Base = yaml.CSafeDumper
except AttributeError:
    _Base = yaml.SafeDumper


class _Dumper(_Base):
    """Writes texts of several lines as such."""

    def ignore_aliases(self, data):
        return True


def _represent(dumper, text):
    return dumper.represent_scalar('tag:yaml.org,2002:str', text,
                                   style='|' if '\n' in text else None)


_Dumper.add_representer(str, _represent)


def text(data):
    """Return the text of a YAML file.

    :param data: dicts, lists, texts, numbers
    """
    return '%s\n%s' % (conf.MARK, plain(data))


def plain(data):
    """Return YAML text without the mark of files that are written."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False,
                     default_flow_style=False, width=4096,
                     allow_unicode=True)
