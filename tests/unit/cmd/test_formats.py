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

"""Tables, and the formats for programs."""

import contextlib
import csv
import io
import json
import types

import fixtures
from oslotest import base
import yaml

from glance_dcn.ceph import health
from glance_dcn.cmd import formats

# It would clear the screen, retitle a terminal, and end the line; the last
# two are a C1 control and an override of the direction of text.
HOSTILE = 'a\x1b[2J\x1b]0;x\x07\nb\x9b2J\u202eü'
_SHOWN = r'a\x1b[2J\x1b]0;x\x07\nb\x9b2J\u202eü'
_COLUMNS = formats.Columns(('name', 'free_bytes', 'state', 'sites'),
                           ('name', 'free_bytes', 'state'),
                           {'free_bytes': formats.size})
_ROWS = [{'name': HOSTILE, 'free_bytes': 2048, 'state': 'up',
          'sites': ['a', 'b'], 'more': 1},
         {'name': 'say "b"', 'free_bytes': None, 'state': 'down',
          'sites': {'delete': 2}, 'more': 2}]


class Terminal(io.StringIO):

    def isatty(self):
        return True


def show(form, *columns, rows=_ROWS, stream=None, single=False, **more):
    """Return what is printed, and what goes to standard error."""
    args = types.SimpleNamespace(
        format=form, column=list(columns), columns=formats.Columns(
            _COLUMNS.names, _COLUMNS.shown, _COLUMNS.pretty, single))
    out, err = stream or io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        formats.show(args, {'all': rows}, rows, **more)
    return out.getvalue(), err.getvalue()


class TestTable(base.BaseTestCase):

    def test_table(self):
        self.assertEqual('A   LONG\nxy  -\n-   0', formats.Table(
            ('a', 'long'), [['xy', None], ['', 0]]).text())

    def test_what_users_wrote_does_nothing_to_the_terminal(self):
        self.assertEqual('A\na\\x1b[2J\\nb\u00e9', formats.Table(
            ('a',), [['a\x1b[2J\nb\u00e9']]).text())

    def test_size(self):
        self.assertEqual(['-', '0 B', '1023 B', '1.0 KiB', '1.5 GiB'], [
            formats.size(count) for count in (None, 0, 1023, 1024, 3 << 29)])


class TestFormats(base.BaseTestCase):

    def test_table_is_for_people(self):
        out, _err = show('table')
        self.assertEqual(
            ['NAME' + ' ' * (len(_SHOWN) - 2) + 'FREE BYTES  STATE',
             _SHOWN + '  2.0 KiB     up'], out.splitlines()[:2])

    def test_table_of_some_columns(self):
        self.assertEqual('FREE BYTES  SITES\n2.0 KiB     a,b\n'
                         '-           delete=2\n',
                         show('table', 'SITES', 'free bytes')[0])

    def test_json_and_yaml_of_everything(self):
        for form, load in (('json', json.loads), ('yaml', yaml.safe_load)):
            self.assertEqual({'all': _ROWS}, load(show(form)[0]))

    def test_json_and_yaml_of_some_columns(self):
        for form, load in (('json', json.loads), ('yaml', yaml.safe_load)):
            self.assertEqual(
                [{'name': HOSTILE, 'sites': ['a', 'b']},
                 {'name': 'say "b"', 'sites': {'delete': 2}}],
                load(show(form, 'name', 'sites')[0]))

    def test_csv(self):
        out = show('csv')[0]
        self.assertEqual(
            [[*_COLUMNS.names], [_SHOWN, '2048', 'up', 'a,b'],
             ['say "b"', '', 'down', 'delete=2']], [*csv.reader(
                 io.StringIO(out))])
        self.assertEqual('"free_bytes"\n2048\n""\n',
                         show('csv', 'free_bytes')[0])

    def test_value(self):
        self.assertEqual(_SHOWN + ' 2048 up a,b\nsay "b" None down delete=2\n',
                         show('value')[0])
        self.assertEqual('up\ndown\n', show('value', 'state')[0])

    def test_one_thing(self):
        for form, columns, wanted in (
                ('value', ('state', 'free_bytes'), '2048\nup\n'),
                ('csv', ('state', 'free_bytes'), '"free_bytes","state"\n'
                                                 '2048,"up"\n'),
                ('yaml', ('state', 'free_bytes'), 'free_bytes: 2048\n'
                                                  'state: up\n'),
                ('table', ('state', 'free_bytes'), 'FIELD       VALUE\n'
                                                   'free bytes  2.0 KiB\n'
                                                   'state       up\n')):
            self.assertEqual(wanted, show(form, *columns, single=True,
                                          rows=_ROWS[:1])[0])

    def test_nothing(self):
        for form, wanted in (('csv', '"state"\n'), ('value', ''),
                             ('table', ''), ('json', '[]\n'),
                             ('yaml', '[]\n')):
            self.assertEqual(wanted, show(form, 'state', rows=[])[0])

    def test_notes_are_never_lost(self):
        note = 'of %s nothing is known' % HOSTILE
        shown = 'of %s nothing is known\n' % _SHOWN
        for form, columns, place in (
                ('table', (), 0), ('table', ('state',), 1), ('csv', (), 1),
                ('value', (), 1), ('json', ('state',), 1)):
            said = show(form, *columns, notes=[note])
            self.assertTrue(said[place].endswith(shown), said)
            self.assertNotIn('nothing is known', said[1 - place])
        # The document has them.
        self.assertEqual('', show('json', notes=[note])[1])

    def test_nothing_hostile_comes_through(self):
        for form in formats.FORMATS:
            for columns in ((), ('name',)):
                out = show(form, *columns, people=None)[0]
                self.assertEqual('', ''.join(
                    letter for letter in out
                    if not letter.isprintable() and letter != '\n'), form)

    def test_unknown_column(self):
        exc = self.assertRaises(formats.UnknownColumn, show, 'csv', 'state',
                                'nonsense')
        self.assertEqual('there is no column nonsense; there are name, '
                         'free_bytes, state, sites', str(exc))


class TestColours(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        for name, value in (('NO_COLOR', None), ('TERM', 'xterm')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))

    def test_terminal(self):
        out = show('table', 'state', 'name', stream=Terminal())[0]
        self.assertIn('\033[32mup\033[0m', out)
        self.assertIn('\033[31mdown\033[0m', out)
        # Of columns of states alone, and as wide as without.
        out = show('table', stream=Terminal(), rows=[
            dict(_ROWS[0], name='up', state='up')])[0]
        self.assertEqual('NAME  FREE BYTES  STATE\n'
                         'up    2.0 KiB     \033[32mup\033[0m\n', out)

    def test_not_wanted(self):
        plain = show('table')[0]
        for name, value in (('NO_COLOR', '1'), ('TERM', 'dumb')):
            with fixtures.EnvironmentVariable(name, value):
                self.assertEqual(plain, show('table', stream=Terminal())[0])

    def test_formats_for_programs(self):
        for form in formats.FORMATS[1:]:
            self.assertNotIn('\033', show(form, stream=Terminal())[0])


class TestTimes(base.BaseTestCase):

    def test_of_records_of_anybody(self):
        self.assertEqual('1970-01-01T00:00:01Z', formats.iso_time(1))
        for number in 1e12, 1e20, 4e18, -1e20:
            self.assertEqual('%g' % number, formats.iso_time(number))
            self.assertEqual('an unknown time', health.format_time(number))
