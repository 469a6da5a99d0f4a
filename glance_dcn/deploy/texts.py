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


"""Text of the files that are rendered: conf files and YAML."""

from __future__ import annotations

import re
import typing

import yaml

#: Values by section and option.
Sections = dict[str, dict[str, str]]
#: First line of every file that is written.
MARK = '# Written by glance-dcn out of the sites file: change it there.'


def conf(sections: Sections) -> str:
    """Return the text of a conf file."""
    lines = [MARK]
    for section, options in sections.items():
        lines += ['', '[%s]' % section]
        lines += ['%s = %s' % (option, escape(value))
                  for option, value in options.items()]
    return '\n'.join([*lines, ''])


def escape(value: str) -> str:
    """Return a value so that oslo.config reads it as it is."""
    # It takes \$ for $$, and so the backslash away.
    return quote(re.sub(
        r'(\\?)\$', lambda found: '\\\\$' if found.group(1) else '$$', value))


def quote(value: str) -> str:
    """Return a value so that oslo.config's parser reads it as it is."""
    # It strips blanks, and takes quotes around a value away.
    if value != value.strip() or (value[:1] in ('"', "'")
                                  and value[0] == value[-1]):
        return '"%s"' % value
    return value


_Base: typing.Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class _Dumper(_Base):
    """Writes texts of several lines as such."""

    def ignore_aliases(self, data: typing.Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar('tag:yaml.org,2002:str', text,
                                   style='|' if '\n' in text else None)


_Dumper.add_representer(str, _represent)


def yaml_file(data: typing.Any) -> str:
    """Return the text of a YAML file."""
    return '%s\n%s' % (MARK, yaml_text(data))


def yaml_text(data: typing.Any) -> str:
    """Return YAML text without the mark of files that are written."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False,
                     default_flow_style=False, width=4096,
                     allow_unicode=True)
