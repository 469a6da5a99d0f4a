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

from __future__ import annotations

import typing

import yaml

from glance_dcn.deploy import conf

_Base: typing.Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class _Dumper(_Base):
    """Writes texts of several lines as such."""

    def ignore_aliases(self, data: typing.Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar('tag:yaml.org,2002:str', text,
                                   style='|' if '\n' in text else None)


_Dumper.add_representer(str, _represent)


def text(data: typing.Any) -> str:
    """Return the text of a YAML file."""
    return '%s\n%s' % (conf.MARK, plain(data))


def plain(data: typing.Any) -> str:
    """Return YAML text without the mark of files that are written."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False,
                     default_flow_style=False, width=4096,
                     allow_unicode=True)
