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


"""Text of files that oslo.config reads."""

from __future__ import annotations

import re

#: Values by section and option.
Sections = dict[str, dict[str, str]]
#: First line of every file that is written.
MARK = '# Written by glance-dcn out of the sites file: change it there.'


def text(sections: Sections) -> str:
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
