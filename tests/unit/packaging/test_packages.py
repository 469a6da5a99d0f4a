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

"""What is said in several places about packages is the same in all."""

import ast
import pathlib
import re
import sys
from unittest import mock

from oslotest import base
from packaging import requirements
from packaging import utils

from glance_dcn.images import errors
from glance_dcn.images import inspection
from glance_dcn.images import limited
from glance_dcn.images import qemu_img

_ROOT = pathlib.Path(__file__).parents[3]
_PYTHON = re.compile(r'python3dist\((.+)\)')
# What of the checkout unit tests import; glance_dcn has Requires of its own.
_OURS = ('bench', 'lab', 'tests')
# Packages that are not called like their modules.
_CALLED = {'prometheus_client': 'python3-prometheus_client',
           'yaml': 'python3-pyyaml'}


def required():
    """Return what the spec file requires: bounds by name, and '' for none."""
    spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
    found = {}
    for line in re.findall(r'^Requires:\s+(.*)$', spec, re.MULTILINE):
        name, _space, bound = line.partition(' ')
        found[name] = bound
    return found


def needed():
    """Return what requirements.txt names: bounds by normalised name."""
    found = {}
    for line in (_ROOT / 'requirements.txt').read_text().splitlines():
        text = line.partition('#')[0].strip()
        if text:
            requirement = requirements.Requirement(text)
            (bound,) = requirement.specifier
            found[utils.canonicalize_name(requirement.name)] = (
                '%s %s' % (bound.operator, bound.version))
    return found


def imported(path):
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update('%s.%s' % (node.module, alias.name)
                         for alias in node.names)
    return found


def files_of(module):
    """Return the files of the checkout that importing a module runs."""
    path, found = _ROOT, []
    for part in module.split('.'):
        path /= part
        found += [each for each in (path.with_suffix('.py'),
                                    path / '__init__.py') if each.exists()]
    return found


def libraries_of_tests():
    """Return what unit tests import that is no part of Python or ours."""
    waiting = [*(_ROOT / 'tests/unit').rglob('*.py')]
    seen, found = set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imported(path):
            top = module.partition('.')[0]
            if top in _OURS:
                waiting += files_of(module)
            else:
                found.add(top)
    return found - set(sys.stdlib_module_names) - {'glance_dcn'}


def listed(platform, *profiles):
    """Return the packages that bindep.txt names for a kind of platform."""
    found = set()
    for line in (_ROOT / 'bindep.txt').read_text().splitlines():
        name, _space, selectors = line.partition('#')[0].strip().partition(' ')
        words = selectors.strip('[]').split()
        platforms = [word for word in words if word.startswith('platform:')]
        wanted = [word for word in words if word not in platforms]
        if (name and (not platforms or 'platform:' + platform in platforms)
                and (not wanted or set(wanted) & set(profiles))):
            found.add(name)
    return found


class TestSpec(base.BaseTestCase):

    def test_requires_what_requirements_txt_names(self):
        # 9.1.0 is later than 9.1 for RPM, and 9.1 is what is provided.
        wanted = {name: re.sub(r'(\.0)+$', '', bound)
                  for name, bound in needed().items()}
        has = {_PYTHON.fullmatch(name).group(1): bound
               for name, bound in required().items()
               if _PYTHON.fullmatch(name)}
        # Glance is there before glance_dcn is, which it loads.
        self.assertEqual('>= 26', has.pop('glance'))
        self.assertEqual(wanted, has)

    def test_requires_what_bindep_names(self):
        self.assertEqual(listed('rpm'),
                         {name for name in required()
                          if not _PYTHON.fullmatch(name)})

    def test_has_the_summary_of_the_distribution(self):
        setup = (_ROOT / 'setup.cfg').read_text()
        spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
        summary = re.search(r'^summary = (.*)$', setup, re.MULTILINE).group(1)
        self.assertRegex(spec, r'(?m)^Summary: +%s$' % re.escape(summary))

    def test_runs_the_unit_tests(self):
        spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
        check = spec[spec.index('%check'):spec.index('%files')]
        self.assertIn('-m stestr', check)
        self.assertIn('--test-path ./tests/unit run', check)
        # Unless whoever builds it says otherwise.
        self.assertIn('%bcond_without tests', spec)

    def test_build_requires_what_the_unit_tests_import(self):
        if sys.version_info < (3, 10):
            self.skipTest('this Python does not tell what is a part of it')
        spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
        [block] = re.findall(
            r'^%if %\{with tests\}\n(BuildRequires.*?)^%endif', spec,
            re.MULTILINE | re.DOTALL)
        has = set(re.findall(r'^BuildRequires: +(python3-\S+)$', block,
                             re.MULTILINE))
        # It runs them.
        has.remove('python3-stestr')
        self.assertEqual({
            _CALLED.get(name, 'python3-' + name.replace('_', '-'))
            for name in libraries_of_tests()}, has)

    def test_owns_its_folder(self):
        spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
        self.assertIn('%dir %attr(0750, root, root) '
                      '%{_sysconfdir}/%{pypi_name}\n', spec)
        self.assertIn("'/etc/glance-dcn/sites.yaml'", (
            _ROOT / 'glance_dcn/cmd/sitesfile.py').read_text())

    def test_has_a_changelog_and_the_url_of_the_distribution(self):
        spec = (_ROOT / 'packaging/python-glance-dcn.spec').read_text()
        setup = (_ROOT / 'setup.cfg').read_text()
        url = re.search(r'^home_page = (.*)$', setup, re.MULTILINE).group(1)
        self.assertRegex(spec, r'(?m)^URL: +%s$' % re.escape(url))
        self.assertRegex(spec.partition('%changelog\n')[2],
                         r'^\* \w{3} \w{3} \d\d \d{4} .* <.*@.*> - [\d.]+-1'
                         r'\n- \w')


class TestTool(base.BaseTestCase):

    def test_wants_what_the_spec_requires_of_the_distribution(self):
        text = (_ROOT / 'tools/check-rpm.py').read_text()
        [names] = re.findall(r'^_OF_DISTRIBUTION = (\{.*?\})', text,
                             re.MULTILINE | re.DOTALL)
        self.assertEqual(
            ast.literal_eval(names),
            {name for name in required() if not _PYTHON.fullmatch(name)}
            | {'python3dist(glance)'})

    def test_leaves_what_is_not_its_own(self):
        # The folder is one that whoever calls it has named.
        text = (_ROOT / 'tools/build-rpm.sh').read_text()
        self.assertEqual(
            ['rm -rf "$work"', 'rm -f "$output"/python*-glance-dcn-*.rpm'],
            re.findall(r'''\brm -[^'\n]*''', text))


class TestBindep(base.BaseTestCase):

    def test_names_what_runs_qemu_img(self):
        # Without a profile: it is needed where Glance runs.
        programs = [limited.prefix(limited.Limits())[0]]

        def note(command, *args, **kwargs):
            programs.append(command[0])
            raise limited.TookTooLong()
        image = inspection.inspect(__file__)
        with mock.patch.object(limited, 'run', note):
            self.assertRaises(errors.QemuImgError, qemu_img.info, image)
        packages = {'prlimit': ('util-linux', 'util-linux'),
                    'qemu-img': ('qemu-utils', 'qemu-img')}
        self.assertEqual(sorted(packages), sorted(programs))
        for of_dpkg, of_rpm in packages.values():
            self.assertIn(of_dpkg, listed('dpkg'))
            self.assertIn(of_rpm, listed('rpm'))

    def test_names_what_the_tools_install(self):
        installed = set()
        for path in (_ROOT / 'tools').glob('*.sh'):
            for line in re.findall(r'^\s*install_packages (.*)$',
                                   path.read_text(), re.MULTILINE):
                # $missing is what bindep itself says.
                installed.update(word for word in line.split()
                                 if not word.startswith('$'))
        self.assertNotEqual(set(), installed)
        self.assertEqual(set(), installed - listed('dpkg', 'test'))

    def test_nothing_else_installs_packages(self):
        # One function of one tool does, with what bindep.txt names.
        self.assertEqual(['install-deps.sh'], [
            path.name for path in (_ROOT / 'tools').iterdir()
            if path.is_file() and re.search(
                r'(apt-get|dnf|yum) .*install', path.read_text())])
