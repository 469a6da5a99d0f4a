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

"""From a stock deployment of the operators to ours, as the guide tells it."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess

import yaml

from glance_dcn.store import driver
from tests.unit.deploy import base
from tests.unit.deploy import loading
from tests.unit.deploy import test_operator

_ROOT = pathlib.Path(__file__).parents[3]
_PAGE = _ROOT / 'doc/source/install/rhoso.rst'
_VERSION_CRD = test_operator.DATA / 'openstackversion-crd.json'
_SAMPLES = test_operator.DATA / 'glance-operator'


def commands():
    """Return the commands of the guide that lead from stock to ours."""
    section = _PAGE.read_text().partition('In five commands\n')[2]
    block = section.partition('.. code-block:: console\n\n')[2]
    text = re.sub(r'\\\n +', '', block.partition('\n\n')[0])
    return [line.strip()[2:] for line in text.splitlines()]


def configurations(path):
    """Return what the GlanceAPIs of a sample are configured with."""
    found = yaml.safe_load(path.read_text())
    if 'patches' in found:
        [patch] = yaml.safe_load(found['patches'][0]['patch'])
        return [patch['value']]
    template = found['spec']['glance']['template']
    apis = template.get('glanceAPIs') or {'default': {}}
    # It counts where a GlanceAPI has none of its own.
    return [api.get('customServiceConfig') or template['customServiceConfig']
            for api in apis.values()]


class StockCase(base.SitesFileTestCase):

    def changed(self, sample):
        """Return a copy of a sample, changed by the command of the guide."""
        [command] = [line for line in commands() if line.startswith('sed ')]
        path = self.folder / 'control-plane.yaml'
        shutil.copy(sample, path)
        subprocess.run(shlex.split(command.replace(
            'packaging/', '%s/packaging/' % _ROOT)), cwd=self.folder,
            check=True)
        return path

    def conf(self, text):
        """Return a configuration as the pods of a GlanceAPI read it."""
        paths = [self.folder / ('0%d-config.conf' % number)
                 for number in (0, 2)]
        # Of the glance-operator's own.
        paths[0].write_text(
            '[DEFAULT]\nenabled_import_methods=[web-download,glance-direct]\n'
            'enabled_backends=default_backend:file\n[glance_store]\n'
            'default_backend=default_backend\n[image_import_opts]\n'
            "image_import_plugins = ['no_op']\n")
        paths[1].write_text(text)
        return loading.conf_of(*paths)


class TestSamples(StockCase):
    """The glance-operator's samples of backends in Ceph."""

    def test_all(self):
        self.assertEqual({
            'ceph': [{'default_backend': 'dcn'}],
            'ceph-thin': [{'default_backend': 'dcn'}],
            'edge': [{'az0': 'dcn', 'az1': 'dcn', 'az2': 'dcn'},
                     {'az0': 'dcn', 'az1': 'dcn'},
                     {'az0': 'dcn', 'az2': 'dcn'}],
            'multistore': [{'ceph-0': 'dcn', 'ceph-1': 'dcn',
                            'swift-0': 'swift'}],
        }, {sample.stem: [self.stores(text) for text in configurations(
            self.changed(sample))] for sample in _SAMPLES.iterdir()})

    def stores(self, text):
        """Return the types of stores that a configuration makes."""
        conf = self.conf(text)
        self.assertEqual(
            ['dcn_distributed_staging', 'dcn_image_conversion'],
            conf.image_import_opts.image_import_plugins)
        self.assertEqual({'web-download', 'glance-direct', 'copy-image'},
                         set(conf.enabled_import_methods))
        found = {name: kind for name, kind in conf.enabled_backends.items()
                 if name not in loading.RESERVED}
        self.assertIn(conf.glance_store.default_backend, found)
        for name, kind in found.items():
            if kind == 'dcn':
                self.assertMade(conf, name)
        return found

    def assertMade(self, conf, name):
        """A store is made, and has what the sample says of it."""
        store = driver.Store(conf, backend=name)
        given = getattr(store.conf, name)
        self.assertEqual(('images', 'openstack'),
                         (given.rbd_store_pool, given.rbd_store_user))
        self.assertTrue(given.rbd_store_ceph_conf.startswith('/etc/ceph/'))
        self.assertIn(given.rbd_thin_provisioning, (True, False))

    def test_import_methods_of_deployers_stay(self):
        edge = (_SAMPLES / 'edge.yaml').read_text().replace(
            '[web-download,copy-image,glance-direct]', '[web-download]')
        self.assertIn('enabled_import_methods = [web-download]', edge)
        # They may as well come after the stores.
        after, count = re.subn(
            r'( +enabled_import_methods = .*\n)( +enabled_backends = .*\n)',
            r'\2\1', edge)
        self.assertLess(0, count)
        for sample in (edge, after):
            path = self.folder / 'own.yaml'
            path.write_text(sample)
            for text in configurations(self.changed(path)):
                self.assertEqual(['web-download'],
                                 self.conf(text).enabled_import_methods)
                self.assertEqual(1, text.count('enabled_import_methods'))

    def test_conversion_of_deployers_stays(self):
        path = self.folder / 'own.yaml'
        path.write_text((_SAMPLES / 'ceph.yaml').read_text().replace(
            '        [glance_store]\n',
            '        [image_import_opts]\n'
            '        image_import_plugins = [image_decompression]\n'
            '        [image_conversion]\n'
            '        output_format = vmdk\n'
            '        [glance_store]\n'))
        [text] = configurations(self.changed(path))
        conf = self.conf(text)
        self.assertEqual(['image_decompression'],
                         conf.image_import_opts.image_import_plugins)
        self.assertIn('output_format = vmdk', text)
        self.assertNotIn('output_format = raw', text)

    def test_default_store_is_named_first(self):
        for sample in _SAMPLES.iterdir():
            text, count = re.subn(
                r'( +\[DEFAULT\]\n(?: +\w+ *=.*\n)+)'
                r'( +\[glance_store\]\n(?: +\w+ *=.*\n)+)',
                r'\2\1', sample.read_text())
            self.assertLess(0, count, sample)
            path = self.folder / 'other.yaml'
            path.write_text(text)
            for text in configurations(self.changed(path)):
                self.assertIn('dcn', self.stores(text).values())

    def test_stores_of_several_lines(self):
        path = self.folder / 'lines.yaml'
        path.write_text((_SAMPLES / 'multistore.yaml').read_text().replace(
            'ceph-0:rbd,', 'ceph-0:rbd,\n          '))
        [text] = configurations(self.changed(path))
        self.assertEqual({'ceph-0': 'dcn', 'ceph-1': 'dcn',
                          'swift-0': 'swift'}, self.stores(text))

    def test_changed_once(self):
        for sample in (test_operator.SAMPLE, *_SAMPLES.iterdir()):
            once = self.changed(sample).read_text()
            self.assertNotEqual(sample.read_text(), once)
            path = self.folder / 'once.yaml'
            path.write_text(once)
            self.assertEqual(once, self.changed(path).read_text())

    def test_other_services_stay(self):
        # The last block ends with the file.
        path = self.folder / 'other.yaml'
        path.write_text('cinder:\n  customServiceConfig: |\n'
                        '    [DEFAULT]\n    enabled_backends=ceph\n'
                        'glance:\n  customServiceConfig: |\n'
                        '    [DEFAULT]\n    enabled_backends=a:file\n')
        self.assertEqual(path.read_text(), self.changed(path).read_text())

    def test_others_stay(self):
        before = yaml.safe_load(test_operator.SAMPLE.read_text())
        after = yaml.safe_load(self.changed(
            test_operator.SAMPLE).read_text())
        for found in (before, after):
            del found['spec']['glance']['template']['customServiceConfig']
        self.assertEqual(before, after)

    def test_fields_are_those_of_the_custom_resources(self):
        for sample in (test_operator.SAMPLE, _SAMPLES / 'edge.yaml'):
            spec = yaml.safe_load(self.changed(sample).read_text())['spec']
            test_operator.check(test_operator.CRD, spec, 'glance',
                                'extraMounts')


class TestCommands(StockCase):
    """From openstack-operator's sample to ours."""

    def test_are_five(self):
        self.assertEqual(['podman', 'podman', 'oc', 'sed', 'oc'],
                         [line.split()[0] for line in commands()])

    def test_image(self):
        build = shlex.split(commands()[0])
        containerfile = _ROOT / build[build.index('--file') + 1]
        argument = build[build.index('--build-arg') + 1].partition('=')[0]
        self.assertIn('ARG %s\n' % argument, containerfile.read_text())

    def test_version(self):
        command = next(line for line in commands()
                       if line.startswith('oc patch openstackversion'))
        command = command.replace("'$IMAGE'", 'registry/glance:1')
        patch = json.loads(re.search("'(.*)'$", command).group(1))
        spec = {'targetVersion': '18.0.6', **patch['spec']}
        test_operator.check(_VERSION_CRD, spec)
        self.assertEqual(
            {'glanceAPIImage': 'registry/glance:1'},
            spec['customContainerImages'])
        # The operators' own sample has such a field, which is dropped.
        self.assertRaises(
            test_operator.jsonschema.ValidationError, test_operator.check,
            _VERSION_CRD, {'targetVersion': '1', 'customContainerImages': {
                'cinderApiImage': 'other'}})

    def test_version_patched(self):
        if not shutil.which('kubectl'):
            self.skipTest('there is no kubectl')
        path = self.folder / 'version.yaml'
        path.write_text(
            'apiVersion: core.openstack.org/v1beta1\n'
            'kind: OpenStackVersion\nmetadata: {name: openstack}\n'
            'spec: {targetVersion: 18.0.6}\n')
        argv = shlex.split(commands()[2].replace("'$IMAGE'", 'new'))
        patched = subprocess.run(
            ['kubectl', 'patch', '--local', '-f', path, '--output', 'yaml',
             *argv[argv.index('--type'):]], check=True, text=True,
            capture_output=True, timeout=60).stdout
        self.assertEqual(
            {'targetVersion': '18.0.6', 'customContainerImages': {
                'glanceAPIImage': 'new'}}, yaml.safe_load(patched)['spec'])


class TestSitesFile(StockCase):
    """The sites file of the guide, for the sample with an edge."""

    def test_is_for_what_is_there(self):
        text = (_ROOT / 'etc/sites-rhoso.yaml.sample').read_text()
        (self.folder / 'keys').mkdir()
        for name, user in re.findall(r'file: (keys/\w+\.client\.([\w-]+)'
                                     r'\.keyring)', text):
            self.write_secret(name, '[client.%s]\n\tkey = %s\n'
                              % (user, base.KEY))
        case = test_operator.OperatorTestCase
        template = case.template(self, text=text)
        stock = yaml.safe_load((_SAMPLES / 'edge.yaml').read_text())[
            'spec']['glance']['template']
        for name, api in template['glanceAPIs'].items():
            self.assertEqual(stock['glanceAPIs'][name]['type'], api['type'])
            self.assertEqual(stock['glanceAPIs'][name]['override'],
                             api['override'])
        self.assertEqual(stock['keystoneEndpoint'],
                         template['keystoneEndpoint'])
        test_operator.check(test_operator.GLANCE_CRD, template)
        self.assertIn('sites/az0/az1.conf', self.files)

    rendered = test_operator.OperatorTestCase.rendered
