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

"""Completion of the command, by a real bash."""

import os
import pathlib
import pty
import select
import subprocess
import time

import fixtures
from oslotest import base

from glance_dcn.cmd import complete
from glance_dcn.cmd import formats
from glance_dcn.cmd import main

_FILE = pathlib.Path(__file__).parents[3] / 'etc/bash-completion/glance-dcn'
# Prints the completions of each line of words, the last of which is typed at.
_ASK = """
source "$1"
while IFS= read -r line; do
    IFS='|' read -ra COMP_WORDS <<< "$line"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    [ "${COMP_WORDS[COMP_CWORD]}" = . ] && COMP_WORDS[COMP_CWORD]=
    _glance_dcn
    echo "${COMPREPLY[*]}"
done
"""
_ENOUGH = 60


class TestScript(base.BaseTestCase):

    def test_packages_install_what_the_command_prints(self):
        self.assertEqual(
            complete.script(main._parser()), _FILE.read_text(),
            'make it again with "glance-dcn complete > %s"'
            % _FILE.relative_to(_FILE.parents[2]))

    def complete(self, *lines):
        """Return the completions of lines of words, '.' being an empty one."""
        done = subprocess.run(
            ['bash', '--norc', '--noprofile', '-c', _ASK, 'bash', str(_FILE)],
            input=''.join('glance-dcn|%s\n' % line.replace(' ', '|')
                          for line in lines), check=True, text=True,
            capture_output=True, timeout=_ENOUGH)
        self.assertEqual('', done.stderr)
        return [line.split() for line in done.stdout.splitlines()]

    def test_words(self):
        forms = [*formats.FORMATS]
        table = {
            'ta': ['task'], 'task .': ['--help', 'list', 'show', 'retry',
                                       'run'],
            'task l': ['list'], 'nonsense s': ['site', 'status'],
            'site list --t': ['--timeout'],
            'status -f .': forms, 'status --format .': forms,
            'status --format =': forms, 'status --format = c': ['csv'],
            'status -f csv --pro': ['--problems'],
            '--config-file /etc/x status -f y': ['yaml'],
            '--config-file status s': ['site', 'status'],
            'task list -c at': ['attempts'], 'check -c re': ['remedy'],
            'status -c l': ['lost'], 'status -c ow': ['owner'],
            'config render --as .': [
                'plain', 'kolla', 'openstack-ansible', 'tripleo', 'operator'],
            'check --timeout .': [], 'status --watch --form': ['--format'],
            'metrics --output .': []}
        self.assertEqual(table, dict(zip(table, self.complete(*table))))

    def test_every_option_is_known(self):
        lines, wanted = [], []
        for path, parser in complete._walk(main._parser(), ''):
            lines.append(path + '--')
            wanted.append(sorted(
                option for action in parser._actions
                for option in action.option_strings if option[1] == '-'))
        self.assertEqual(wanted, [*map(sorted, self.complete(*lines))])


class TestTerminal(base.BaseTestCase):
    """Somebody who types, at a bash of their own."""

    def setUp(self):
        super().setUp()
        self.folder = self.useFixture(fixtures.TempDir()).path
        pathlib.Path(self.folder, 'keyring.of.dcn3').touch()
        # A line of 80 columns would be wrapped.
        environment = {'PATH': os.environ['PATH'], 'PS1': '$ ',
                       'TERM': 'dumb', 'COLUMNS': '1000',
                       'INPUTRC': os.devnull, 'HOME': self.folder}
        self.terminal, slave = pty.openpty()
        self.addCleanup(os.close, self.terminal)
        bash = subprocess.Popen(
            ['bash', '--norc', '--noprofile', '-i'], stdin=slave, stdout=slave,
            stderr=slave, cwd=self.folder, env=environment,
            start_new_session=True)
        os.close(slave)
        self.addCleanup(bash.wait)
        self.addCleanup(bash.kill)
        self.type('source %s; echo read""y\n' % _FILE, 'ready')

    def type(self, text, wanted):
        """Type, and see that something appears."""
        os.write(self.terminal, text.encode())
        seen, until = '', time.monotonic() + _ENOUGH
        while wanted not in seen:
            left = until - time.monotonic()
            if left < 0 or not select.select([self.terminal], [], [], left)[0]:
                self.fail('%r appeared, and not %r' % (seen, wanted))
            seen += os.read(self.terminal, 4096).decode()

    def test_tab(self):
        self.type('glance-dcn st\t', 'glance-dcn status ')
        self.type('--form\t', '--format ')
        self.type('ya\t', 'yaml ')
        self.type('--sites-file keyr\t', 'keyring.of.dcn3 ')
