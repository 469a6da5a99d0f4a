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

"""The guide says what the code does."""

import argparse
import ast
import importlib.util
import pathlib
import pkgutil
import re

from oslotest import base

from glance_dcn.ceph import definitions
from glance_dcn.cmd import main
from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home
from glance_dcn.tasks import spool
from glance_dcn.tasks import store
from glance_dcn.workers import identity
from glance_dcn.workers import registry

_ROOT = pathlib.Path(__file__).parents[2]
_GUIDE = _ROOT / 'doc' / 'source'
# What stands for something else in a message that is quoted, and in the code.
_STANDS = re.compile(r"'?\b(?:client\.)?(?:[A-Z]|[A-Z-]{2,})\b'?|\.\.\.|\)$")
_FORMAT = re.compile(r'%(?:\(\w+\))?[srdgo%]')


def constants():
    """Return all strings of the package as one text, one a line."""
    found = []
    # With those of what stock Glance logs of our copies.
    stock = importlib.util.find_spec(
        'glance.async_.flows.api_image_import').origin
    for path in (*(_ROOT / 'glance_dcn').rglob('*.py'), pathlib.Path(stock)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(_FORMAT.sub('\0', node.value))
    return '\n'.join(found)


def named(pattern):
    """Return the strings of a form that are constants of modules."""
    found = set()
    for path in (_ROOT / 'glance_dcn').rglob('*.py'):
        for node in ast.parse(path.read_text()).body:
            value = node.value if isinstance(node, ast.Assign) else None
            if (isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                    and re.fullmatch(pattern, value.value)):
                found.add(value.value)
    return found


def messages(page):
    """Return the messages that a page explains: terms of its lists."""
    found = []
    lines = page.splitlines()
    for line, after in zip(lines, lines[1:]):
        indented = len(after) - len(after.lstrip())
        if (line.lstrip().startswith('``') and after.strip()
                and indented > len(line) - len(line.lstrip())):
            found += re.findall('``(.+?)``', line)
    return found


def commands(parser, before=('glance-dcn',)):
    """Return the names of all commands of a parser that have none below."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [name for word, below in action.choices.items()
                    for name in commands(below, (*before, word))]
    return [' '.join(before)]


class TestTroubleshooting(base.BaseTestCase):

    def test_explains_messages_that_there_are(self):
        page = (_GUIDE / 'admin' / 'troubleshooting.rst').read_text()
        explained = messages(page.partition('What the log says')[2])
        self.assertGreater(len(explained), 40)
        text = constants()
        self.assertEqual([], [
            message for message in explained
            if not all(part.strip(' :;,(') in text
                       for part in _STANDS.split(message))])


class TestHowItWorks(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        page = (_GUIDE / 'admin' / 'how-it-works.rst').read_text()
        self.terms = set(re.findall(
            '``(.+?)``', page.partition('What it keeps, and where')[2]))

    def test_names_all_that_is_kept_in_pools(self):
        kept = {name + '*' if name.endswith('.') else name
                for name in named(r'glance_dcn\.[a-z]+\.?')}
        self.assertIn('glance_dcn.record', kept)
        self.assertEqual(kept, {term for term in self.terms
                                if term.startswith('glance_dcn.')})

    def test_names_all_that_is_kept_in_the_namespace(self):
        objects = {store.OBJECT, cluster_identity.OBJECT, definitions.OBJECT,
                   registry.OBJECT, registry.ACTING + '*', home._DEPLOYMENT}
        self.assertLessEqual({*objects, home.NAMESPACE}, self.terms)

    def test_names_all_that_is_kept_on_disk(self):
        self.assertLessEqual(
            {folder.FOLDER, 'TASK' + journal._RECORD, 'TASK' + journal._LOCK,
             identity._IDENTITY, 'lead.N', identity._CHALLENGE,
             folder._WORKERS + '/*', spool.FOLDER + '/*'}, self.terms)


class TestCommands(base.BaseTestCase):

    def test_all_are_in_the_guide(self):
        guide = '\n'.join(path.read_text() for path in _GUIDE.rglob('*.rst'))
        found = commands(main._parser())
        self.assertIn('glance-dcn site show', found)
        for name in found:
            self.assertIn(name, guide)


class TestLives(base.BaseTestCase):

    def test_names_what_there_is(self):
        page = (_GUIDE / 'contributor' / 'lives.rst').read_text()
        lives = page.partition('How to add')[0]
        names = re.findall(r'``([a-z_]+(?:\.\w+)+)``', lives)
        self.assertGreater(len(names), 30)
        missing = []
        for name in names:
            try:
                pkgutil.resolve_name('glance_dcn.' + name)
            except (ImportError, AttributeError):
                missing.append(name)
        self.assertEqual([], missing)
        # Those of the hints, which name files.
        for name in re.findall(r'``([a-z_]+/\w*(?:\.py)?)``', page):
            self.assertTrue((_ROOT / 'glance_dcn' / name).exists(), name)


class TestCompatibility(base.BaseTestCase):

    def test_releases_are_those_that_are_run(self):
        page = (_GUIDE / 'install' / 'compatibility.rst').read_text()
        told = set(re.findall(r'(?m)^(\d+\.\d+\.\d+) ', page))
        run = {re.search('(?m)^glance==(.+)$', path.read_text()).group(1)
               for path in (_ROOT / 'lab/releases').glob('[0-9]*.txt')}
        self.assertGreater(len(run), 5)
        self.assertLessEqual(run, told)


class TestReadme(base.BaseTestCase):

    def test_steps_are_those_of_the_demo(self):
        steps = re.findall(r'(?m)^ +\d  (.+?) +\d+\.\d  ok$',
                           (_ROOT / 'README.rst').read_text())
        self.assertEqual(10, len(steps))
        demo = (_ROOT / 'lab' / 'demo.py').read_text()
        self.assertEqual([], [step for step in steps if step not in demo])

    def test_pages_are_there(self):
        pages = re.findall('<([a-z].+?)>`_',
                           (_ROOT / 'README.rst').read_text())
        self.assertGreater(len(pages), 10)
        self.assertEqual([], [path for path in pages
                              if not (_ROOT / path).exists()])
