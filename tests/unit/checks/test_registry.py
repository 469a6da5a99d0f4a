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

"""What checks find, and the guide's list of it."""

import pathlib
import re

from oslotest import base

from glance_dcn.checks import guide
from glance_dcn.checks import registry
from glance_dcn.checks import subjects

_PAGE = pathlib.Path(__file__).parents[3] / 'doc/source/admin/check.rst'
_INC = pathlib.Path(__file__).parents[3] / 'doc/source/admin/checks.inc'


class TestCheck(base.BaseTestCase):

    def made(self, function, **faults):
        return registry.Check(
            'probe', 'It works', registry.NODE, function,
            {name: registry.Fault(*what) for name, what in faults.items()})

    def test_ok(self):
        def look(subject):
            subject.measured('probe', seconds=2)
            return 'fine'
        finding = self.made(look).run(subjects.Subject('edge'))
        self.assertEqual(
            ('edge', 'probe', 'ok', 'fine', None, {'seconds': 2}),
            (finding.site, finding.check, finding.level, finding.text,
             finding.remedy, finding.figures))

    def test_fault(self):
        def look(subject):
            raise registry.Found('bad', path='/a')
        finding = self.made(look, bad=(
            registry.WARN, '%(path)s is bad', 'mend [%(site)s]')).run(
                subjects.Subject('edge'))
        self.assertEqual(('warn', '/a is bad', 'mend [edge]'), (
            finding.level, finding.text, finding.remedy))

    def test_what_is_not_foreseen_is_a_failure_too(self):
        def look(subject):
            raise ValueError('odd')
        finding = self.made(look).run(subjects.Subject('edge'))
        self.assertEqual('fail', finding.level)
        self.assertIn('odd', finding.text)
        self.assertIn('--debug', finding.remedy)

    def test_late(self):
        finding = self.made(None).late(subjects.Subject('edge'), 9)
        self.assertEqual('fail', finding.level)
        self.assertIn('9 s', finding.text)


class TestChecks(base.BaseTestCase):

    def test_needs_are_checks_of_the_same_kind_that_come_before(self):
        seen = {}
        for check in registry.CHECKS.values():
            for name in check.needs:
                self.assertEqual(check.scope, seen[name])
            seen[check.name] = check.scope

    def test_every_fault_has_a_level_a_message_and_a_remedy(self):
        for check in registry.CHECKS.values():
            self.assertTrue(check.faults, check.name)
            self.assertTrue(check.title)
            for fault in check.faults.values():
                self.assertIn(fault.level, (registry.WARN, registry.FAIL))
                self.assertTrue(fault.text and fault.remedy)


class TestGuide(base.BaseTestCase):

    def test_lists_every_message_with_its_cure(self):
        # What to do if it does not stands at the beginning of the file.
        self.assertEqual(guide.rst(), _INC.read_text())

    def test_has_every_check_and_message(self):
        text = re.sub(r'\s+', ' ', _INC.read_text())
        for check in registry.CHECKS.values():
            self.assertIn('``%s`` %s' % (check.name, check.title), text)
            for fault in check.faults.values():
                self.assertIn('``%s``' % guide.filled(fault.text), text)

    def test_plain(self):
        text = guide.plain(registry.CHECKS['keyring'])
        self.assertIn('chmod 0640 PATH', text)
        self.assertNotIn('%', text)


class TestSample(base.BaseTestCase):

    def test_has_each_check_of_node_and_site_in_order(self):
        shown = {}
        for site, check in re.findall(r'^   (node|central) +([a-z-]+) +ok ',
                                      _PAGE.read_text(), re.MULTILINE):
            shown.setdefault(site, []).append(check)
        self.assertEqual({
            'node': [check.name for check in registry.of(registry.NODE)],
            'central': [check.name for check in (
                *registry.of(registry.SITE), *registry.of(registry.ALL))],
        }, shown)
