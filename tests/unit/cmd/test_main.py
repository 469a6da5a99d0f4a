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

import argparse
import logging
import os
import pathlib
import re
import subprocess
import sys

import fixtures
from oslotest import base

from glance_dcn.ceph import errors
from glance_dcn.cmd import main
from glance_dcn.cmd import output
from glance_dcn.tasks import store as stores

_PAGE = pathlib.Path(__file__).parents[3] / 'doc/source/cli/index.rst'


def commands(parser, name='glance-dcn'):
    """Give (name, parser) of each command that can be run."""
    below = [action for action in parser._actions
             if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, other in action.choices.items():
            yield from commands(other, '%s %s' % (name, word))


def options(parser):
    """Return the option names, one for each option of the command's own."""
    return {action.option_strings[0] for action in parser._actions
            if action.option_strings
            and action.dest not in ('help', 'format', 'column')}


class TestHelp(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.commands = dict(commands(main._parser()))

    def test_each_tells_what_it_does_and_its_exit_statuses(self):
        for name, parser in self.commands.items():
            text = parser.format_help()
            self.assertTrue(parser.description, name)
            self.assertIn('exit status:\n  0  ', text, name)
            self.assertEqual([], [line for line in text.splitlines()
                                  if len(line) > 80], name)

    def test_manual_page_has_each_command_with_its_options(self):
        parts = re.split(r'\n(glance-dcn [a-z ]+)\n~+\n',
                         _PAGE.read_text().partition('EXIT STATUS')[0])
        said = dict(zip(parts[1::2], parts[2::2]))
        self.assertEqual(sorted(self.commands), sorted(said))
        for name, parser in self.commands.items():
            synopsis = said[name].strip().partition('\n\n')[0]
            self.assertEqual(options(parser), set(
                re.findall('``(--[a-z-]+)``', synopsis)), name)
            columns = parser.get_default('columns')
            self.assertEqual(
                [[*either.names] for either in columns.either]
                if columns else [],
                [re.findall('``([a-z_]+)``', line) for line in re.findall(
                    r'(?ms)^Columns\b[^:]*:(.+?)\.$', said[name])], name)


class TestStatus(base.BaseTestCase):

    def test_of_errors(self):
        for kind, status in (
                (errors.Unreachable, output.Exit.UNABLE),
                (errors.Exhausted, output.Exit.UNABLE),
                (stores.NotRecorded, output.Exit.UNABLE),
                (errors.Misconfigured, output.Exit.WRONG),
                (errors.WrongCluster, output.Exit.WRONG)):
            self.assertEqual(status, output.status_of(
                kind('dcn0', 'it is so', 'change it')), kind)
        self.assertEqual(output.Exit.WRONG, output.status_of(ValueError()))


class TestLog(base.BaseTestCase):

    def test_does_nothing_to_a_terminal(self):
        record = logging.LogRecord('ours', logging.ERROR, '', 1,
                                   'image %s\nfailed', ('a\x1b[2J',), None)
        self.assertEqual('image a\\x1b[2J\nfailed',
                         main._Formatter('%(message)s').format(record))


class TestProcess(base.BaseTestCase):
    """The command as a process of its own."""

    def run_command(self, *argv, **kwargs):
        return subprocess.run(
            [sys.executable, '-c', 'import sys; from glance_dcn.cmd import '
             'main; sys.exit(main.main())', *argv],
            text=True, check=False, timeout=60, stderr=subprocess.PIPE,
            **kwargs)

    def test_version(self):
        done = self.run_command('--version', stdout=subprocess.PIPE)
        self.assertEqual((0, ''), (done.returncode, done.stderr))
        self.assertRegex(done.stdout, r'^glance-dcn \d+\.')

    def test_nobody_reads_it(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        conf = folder / 'glance-api.conf'
        conf.write_text('[DEFAULT]\nenabled_backends = central:dcn\n'
                        '[glance_store]\ndefault_backend = central\n')
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, 'w') as pipe:
            done = self.run_command('--config-file', str(conf), 'check',
                                    '--only', 'stores', stdout=pipe)
        self.assertEqual((output.Exit.CLOSED, ''),
                         (done.returncode, done.stderr))
