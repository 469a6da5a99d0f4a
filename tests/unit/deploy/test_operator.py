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

import base64
import json
import pathlib
import shutil
import subprocess

import jsonschema
import yaml

from glance_dcn.deploy import operator
from glance_dcn.deploy import sitesfile
from glance_dcn.sites import folder
from glance_dcn.store import options
from tests.unit.deploy import base
from tests.unit.deploy import loading

DATA = pathlib.Path(__file__).parent / 'data'
#: openstack-operator's sample of a control plane with Ceph, and the schemas of
#: its custom resource and of the glance-operator's, which it makes of that;
#: the files tell where they are from.
SAMPLE = DATA / 'openstackcontrolplane-ceph.yaml'
CRD = DATA / 'openstackcontrolplane-crd.json'
GLANCE_CRD = DATA / 'glance-crd.json'


def check(path, spec, *parts):
    """Validate the spec of a custom resource, strictly: no field is dropped.

    :param path: of the schema
    :param parts: the only fields that the schema is kept of
    """
    schema = _strict(json.loads(path.read_text())['schema'])
    jsonschema.validate({name: spec[name] for name in parts or spec
                         if name in spec}, schema)


class OperatorTestCase(base.SitesFileTestCase):

    def rendered(self, *names, text=base.SITES):
        """Return the files of an overlay by path."""
        found = self.load(text)
        [rendering] = operator.render(found, [
            found.site(name) for name in names] or list(found.sites))
        self.notes = rendering.notes
        self.files = {file.path: file for file in rendering.files}
        return {path: file.text for path, file in self.files.items()}

    def template(self, *names, text=base.SITES):
        """Return the template of Glance in the control plane."""
        patch = yaml.safe_load(self.rendered(*names, text=text)[
            'glance.yaml'])
        self.assertEqual(
            ('core.openstack.org/v1beta1', 'OpenStackControlPlane'),
            (patch['apiVersion'], patch['kind']))
        return patch['spec']['glance']['template']

    def conf(self, site, text=base.SITES):
        """Return a site's configuration as its pods have it."""
        path = self.folder / '03-config.conf'
        path.write_text(self.template(text=text)['glanceAPIs'][site][
            'customServiceConfig'])
        return loading.conf_of(path)


class TestApis(OperatorTestCase):

    def test_one_for_each_site(self):
        found = self.template()
        self.assertEqual('central', found['keystoneEndpoint'])
        self.assertEqual(
            {'central': 'split', 'dcn0': 'edge', 'dcn1': 'edge',
             'far': 'edge'},
            {name: api['type'] for name, api in found['glanceAPIs'].items()})

    def test_one_site(self):
        found = self.template('dcn1')
        self.assertEqual(['dcn1'], list(found['glanceAPIs']))
        self.assertNotIn('keystoneEndpoint', found)
        self.assertEqual(1, len(found['extraMounts']))

    def test_each_replica_has_a_volume_of_its_own(self):
        text = base.SITES.replace(
            'user: external', 'user: external\n  operator: {replicas: 2, '
            'storage_class: local, storage_request: 50Gi}')
        api = self.template(text=text)['glanceAPIs']['dcn0']
        self.assertEqual(2, api['replicas'])
        # A claim of the StatefulSet, which is ReadWriteOnce: not external.
        self.assertEqual({'storageRequest': '50Gi', 'storageClass': 'local'},
                         api['storage'])

    def test_image_cache(self):
        apis = self.template()['glanceAPIs']
        self.assertEqual({'size': str(10 << 30)}, apis['far']['imageCache'])
        self.assertNotIn('imageCache', apis['dcn0'])

    def test_address(self):
        text = base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  operator: {networks: [storage],'
            ' internal_address: 172.17.0.81}')
        api = self.template(text=text)['glanceAPIs']['dcn0']
        self.assertEqual(['storage'], api['networkAttachments'])
        self.assertEqual({
            'metadata': {'annotations': {
                'metallb.universe.tf/address-pool': 'internalapi',
                'metallb.universe.tf/allow-shared-ip': 'internalapi',
                'metallb.universe.tf/loadBalancerIPs': '172.17.0.81'}},
            'spec': {'type': 'LoadBalancer'},
        }, api['override']['service']['internal'])


class TestConfig(OperatorTestCase):

    def test_stores(self):
        for site, stores in (('central', ['central', 'dcn0', 'dcn1']),
                             ('dcn0', ['dcn0', 'central']),
                             ('dcn1', ['dcn1', 'central']),
                             ('far', ['central'])):
            conf = self.conf(site)
            self.assertEqual(stores, [name for name in conf.enabled_backends
                                      if name not in loading.RESERVED])
            self.assertEqual(stores[0], conf.glance_store.default_backend)
            self.assertEqual(
                ['/etc/glance-dcn/ceph/%s.conf' % store for store in stores],
                [conf[store].rbd_store_ceph_conf for store in stores])
            self.assertEqual(
                ['dcn_distributed_staging', 'dcn_image_conversion'],
                conf.image_import_opts.image_import_plugins)
            self.assertEqual(
                '/var/lib/glance/os_glance_staging_store',
                conf.os_glance_staging_store.filesystem_store_datadir)

    def test_what_the_operator_sets_is_left_to_it(self):
        text = self.template()['glanceAPIs']['dcn0']['customServiceConfig']
        for option in ('worker_self_reference_url', 'connection',
                       'show_multiple_locations', 'flavor'):
            self.assertNotIn(option, text)
        self.assertIn('[database] of site central is left to the',
                      self.notes[0])


class TestSecrets(OperatorTestCase):

    def test_pods_have_the_clusters_of_their_own_stores(self):
        texts = self.rendered()
        made = {secret['name']: secret['files'] for secret in yaml.safe_load(
            texts['kustomization.yaml'])['secretGenerator']}
        for mount in self.template()['extraMounts']:
            [volume] = mount['extraVol']
            [site] = volume['propagation']
            files = made[volume['volumes'][0]['secret']['secretName']]
            stores = self.load().stores_of(self.load().site(site))
            self.assertEqual(sorted(
                name for store in stores for name in (
                    '%s.conf' % store.name, '%s.client.%s.keyring' % (
                        store.name, 'external' if store.name == site
                        else 'glance-%s' % site))),
                sorted(pathlib.Path(path).name for path in files))
            self.assertEqual(
                [{'name': 'glance-dcn-ceph',
                  'mountPath': '/etc/glance-dcn/ceph', 'readOnly': True}],
                volume['mounts'])
            self.assertEqual(
                0o440, volume['volumes'][0]['secret']['defaultMode'])
            for path in files:
                # Named like the file, and of the cluster it is named after.
                store = pathlib.Path(path).name.partition('.')[0]
                if path.endswith('.conf'):
                    self.assertIn(
                        self.load().site(store).cluster.fsid, texts[path])
                else:
                    self.assertEqual(0o600, self.files[path].mode)

    def test_keys_are_in_their_own_files_alone(self):
        texts = self.rendered()
        for path in ('glance.yaml', 'kustomization.yaml'):
            self.assertNotIn(base.KEY, texts[path])

    def test_names_of_secrets_stay(self):
        found = yaml.safe_load(self.rendered()['kustomization.yaml'])
        self.assertEqual({'disableNameSuffixHash': True},
                         found['generatorOptions'])
        self.assertEqual('OpenStackControlPlane',
                         found['patches'][0]['target']['kind'])


class TestSiteFiles(OperatorTestCase):
    """Sites that come to central while its pods run."""

    SITES = 'paths: {sites: /anywhere}\n' + base.SITES

    def test_central_has_them_from_a_secret(self):
        texts = self.rendered(text=self.SITES)
        [secret] = [each for each in yaml.safe_load(
            texts['kustomization.yaml'])['secretGenerator']
            if each['name'] == 'glance-dcn-central-sites']
        self.assertEqual(['sites/central/dcn0.conf',
                          'sites/central/dcn1.conf'], secret['files'])
        mounts = {mount['name']: mount['extraVol'][0] for mount
                  in self.template(text=self.SITES)['extraMounts']}
        central = mounts.pop('glance-dcn-central')
        self.assertEqual(
            [('glance-dcn-ceph', 'glance-dcn-central-ceph'),
             ('glance-dcn-sites', 'glance-dcn-central-sites')],
            [(volume['name'], volume['secret']['secretName'])
             for volume in central['volumes']])
        self.assertEqual(
            {'glance-dcn-ceph': '/etc/glance-dcn/ceph',
             'glance-dcn-sites': '/etc/glance-dcn/sites'},
            {mount['name']: mount['mountPath']
             for mount in central['mounts'] if mount['readOnly']})
        for mount in mounts.values():
            self.assertEqual(1, len(mount['volumes']))

    def test_configuration(self):
        conf = self.conf('central', self.SITES)
        self.assertEqual(['central'], [name for name in conf.enabled_backends
                                       if name not in loading.RESERVED])
        conf.register_opts(options.PROCESS_OPTS, group=options.GROUP)
        self.assertEqual('/etc/glance-dcn/sites',
                         conf[options.GROUP].sites_dir)
        self.assertEqual(['dcn0', 'central'], [
            name for name in self.conf('dcn0', self.SITES).enabled_backends
            if name not in loading.RESERVED])

    def test_files_are_those_that_glance_reads(self):
        texts = self.rendered(text=self.SITES)
        sites = self.folder / 'sites'
        sites.mkdir(mode=0o755)
        for path, text in texts.items():
            if path.startswith('sites/'):
                file = sites / pathlib.Path(path).name
                file.write_text(text)
                file.chmod(0o644)
        found = folder.Folder(str(sites)).read(settled=False)
        self.assertEqual({}, found.mistakes)
        self.assertEqual(
            {site: '/etc/glance-dcn/ceph/%s.conf' % site
             for site in ('dcn0', 'dcn1')},
            {site: given['rbd_store_ceph_conf']
             for site, given in found.sites.items()})

    def test_a_new_site_changes_nothing_that_restarts_central(self):
        def central(text):
            template = self.template(text=text)
            return (template['glanceAPIs']['central'],
                    template['extraMounts'][0])
        few, many = (self.many(count) for count in (3, 4))
        self.assertNotEqual(few, many)
        self.assertEqual(*(central(
            "paths: {sites: /anywhere}\n" + text) for text in (few, many)))

    def test_that_is_what_the_custom_resource_takes(self):
        template = self.template(text=self.SITES)
        check(CRD, {'glance': {'template': template}})
        check(GLANCE_CRD, template)


class TestExisting(OperatorTestCase):
    """A control plane made with openstack-operator's sample for Ceph."""

    def merged(self, base_, patch):
        """Do as kustomize does with custom resources, RFC 7386.

        That it does so is what :meth:`test_kustomize` shows.

        :param patch: without metadata, which tells the target alone
        """
        if not isinstance(patch, dict):
            return patch
        found = dict(base_) if isinstance(base_, dict) else {}
        for key, value in patch.items():
            found[key] = self.merged(found.get(key), value)
            if value is None:
                del found[key]
        return found

    def taken_over(self, *names, more=''):
        """Return the files of an overlay for the API that is there."""
        return self.rendered(*names, text=base.SITES.replace(
            '  central: true\n', '  central: true\n'
            '  operator: {api: default, layout: split%s}\n' % more))

    def control_plane(self, text=None):
        """Return the sample with a patch; None: of the API that is there."""
        patch = yaml.safe_load(text or self.taken_over()['glance.yaml'])
        return self.merged(yaml.safe_load(SAMPLE.read_text()),
                           {'spec': patch['spec']})

    def check(self, control_plane):
        """Validate a control plane, and the Glance that is made of it."""
        crd = json.loads(CRD.read_text())
        self.assertEqual('%s/%s' % (crd['group'], crd['version']),
                         control_plane['apiVersion'])
        self.assertEqual(crd['kind'], control_plane['kind'])
        spec = control_plane['spec']
        check(CRD, spec, *crd['schema']['properties'])
        check(GLANCE_CRD, spec['glance']['template'])

    def test_the_api_that_is_there_is_taken_over(self):
        glance = self.control_plane()['spec']['glance']['template']
        self.assertEqual({'default', 'dcn0', 'dcn1', 'far'},
                         set(glance['glanceAPIs']))
        self.assertEqual('default', glance['keystoneEndpoint'])
        self.assertEqual('openstack', glance['databaseInstance'])
        central = glance['glanceAPIs']['default']
        self.assertEqual(
            ('split', 'LoadBalancer', '172.17.0.80'), (
                central['type'],
                central['override']['service']['internal']['spec']['type'],
                central['override']['service']['internal']['metadata'][
                    'annotations']['metallb.universe.tf/loadBalancerIPs']))
        path = self.folder / '02-config.conf'
        # That of the template is for GlanceAPIs that have none of their own.
        path.write_text(central['customServiceConfig'])
        self.assertEqual(['central', 'dcn0', 'dcn1'], [
            name for name in loading.conf_of(path).enabled_backends
            if name not in loading.RESERVED])

    def test_replicas_and_storage_stay(self):
        def glance(control_plane):
            return control_plane['spec']['glance']['template']
        before = yaml.safe_load(SAMPLE.read_text())
        own = {'storageClass': 'fast', 'storageRequest': '50Gi'}
        for storage in (None, own):
            api = glance(before)['glanceAPIs']['default']
            if storage:
                api['storage'] = storage
            after = glance(self.merged(before, {'spec': yaml.safe_load(
                self.taken_over()['glance.yaml'])['spec']}))
            self.assertEqual(glance(before)['storage'], after['storage'])
            found = after['glanceAPIs']['default']
            self.assertEqual((1, storage),
                             (found['replicas'], found.get('storage')))
            # Of an API that is new, the defaults.
            found = after['glanceAPIs']['dcn0']
            self.assertEqual((3, {'storageRequest': '10G'}),
                             (found['replicas'], found['storage']))

    def test_replicas_and_storage_that_the_sites_file_says(self):
        for more, name, value in (
                (', replicas: 3', 'replicas', 3),
                (', storage_class: local', 'storage',
                 {'storageClass': 'local'}),
                (', storage_request: 10G', 'storage',
                 {'storageRequest': '10G'})):
            found = yaml.safe_load(self.taken_over(more=more)['glance.yaml'])
            api = found['spec']['glance']['template']['glanceAPIs']['default']
            self.assertEqual({name: value}, {
                key: api[key] for key in ('replicas', 'storage')
                if key in api})

    def test_what_is_replaced_is_noted(self):
        self.taken_over()
        [note] = [note for note in self.notes
                  if 'customServiceConfig of' in note]
        self.assertIn('GlanceAPI default is replaced as a whole', note)
        self.rendered()
        self.assertNotIn('is replaced', str(self.notes))

    def test_no_volume_and_no_mount_is_there_twice(self):
        spec = self.control_plane()['spec']
        glance = spec['glance']['template']
        for name in glance['glanceAPIs']:
            # The openstack-operator gives its own to every GlanceAPI.
            volumes = [volume for mount in (*spec['extraMounts'],
                                            *glance['extraMounts'])
                       for volume in mount['extraVol']
                       if {'GlanceAPI', name} & set(volume['propagation'])]
            self.assertEqual(2, len(volumes))
            for found in (
                    [each['name'] for volume in volumes
                     for each in volume['volumes']],
                    [each['mountPath'] for volume in volumes
                     for each in volume['mounts']]):
                self.assertEqual(sorted(set(found)), sorted(found))
            self.assertEqual(
                {'name': 'glance-dcn-%s-ceph' % (
                    'central' if name == 'default' else name)},
                {'name': volumes[1]['volumes'][0]['secret']['secretName']})

    def test_fields_are_those_of_the_custom_resource(self):
        self.check(self.control_plane())
        text = base.SITES.replace(
            '- name: dcn0', '- name: dcn0\n  operator: {networks: [storage],'
            ' internal_address: 172.17.0.81, storage_class: local}')
        found = self.control_plane(self.rendered(text=text)['glance.yaml'])
        self.check(found)
        # Kubernetes would drop such a field.
        template = found['spec']['glance']['template']
        template['glanceAPIs']['dcn0']['stagingSize'] = '10G'
        self.assertRaises(jsonschema.ValidationError, self.check, found)
        for path, spec in ((CRD, {'glance': {'template': template}}),
                           (GLANCE_CRD, template)):
            self.assertRaises(jsonschema.ValidationError, check, path, spec)

    def test_kustomize(self):
        tool = next((command for command in (
            ['kustomize', 'build'], ['kubectl', 'kustomize'])
            if shutil.which(command[0])), None)
        if tool is None:
            self.skipTest('there is neither kustomize nor kubectl')
        for name, text in dict({
                '../base/kustomization.yaml': 'resources: [sample.yaml]\n',
                '../base/sample.yaml': SAMPLE.read_text(),
        }, **self.taken_over()).items():
            path = self.folder / 'overlay' / name
            (self.folder / 'overlay').mkdir(exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        built = list(yaml.safe_load_all(subprocess.run(
            [*tool, self.folder / 'overlay'], check=True, text=True,
            capture_output=True, timeout=60).stdout))
        [control_plane] = [each for each in built
                           if each['kind'] == 'OpenStackControlPlane']
        for name in ('glance', 'extraMounts'):
            self.assertEqual(self.control_plane()['spec'][name],
                             control_plane['spec'][name])
        self.assertEqual(
            yaml.safe_load(SAMPLE.read_text())['metadata'],
            control_plane['metadata'])
        secrets = {each['metadata']['name']: each for each in built
                   if each['kind'] == 'Secret'}
        self.assertEqual({'glance-dcn-%s-ceph' % site for site in (
            'central', 'dcn0', 'dcn1', 'far')}, set(secrets))
        for name, secret in secrets.items():
            self.assertEqual({
                pathlib.Path(path).name: text
                for path, text in self.taken_over().items()
                if path.startswith('ceph/%s/' % name.split('-')[2])}, {
                    key: base64.b64decode(value).decode()
                    for key, value in secret['data'].items()})


def _strict(schema):
    """Return a schema of a custom resource that allows no other fields.

    What is required comes from the operators: the sample lacks some, too.
    """
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()
             if not (key == 'required' and isinstance(value, list))}
    if isinstance(schema.get('properties'), dict) and not schema.get(
            'x-kubernetes-preserve-unknown-fields'):
        found.setdefault('additionalProperties', False)
    return found


class TestMistakes(OperatorTestCase):

    def assertMistake(self, line, reason, text):
        exc = self.assertRaises(sitesfile.Mistake, self.rendered, text=text)
        self.assertEqual(line, exc.line)
        self.assertIn(reason, exc.reason)

    def test_names(self):
        for name in ('dcn_1', 'Dcn1', 'd' * 33, 'dcn1-'):
            self.assertMistake(23, 'lower-case letters', base.SITES.replace(
                'name: dcn1', 'name: ' + name))

    def test_names_of_apis(self):
        self.assertMistake(
            23, 'the GlanceAPI of site dcn1 is called dcn0',
            base.SITES.replace('- name: dcn1',
                               '- name: dcn1\n  operator: {api: dcn0}'))
        self.assertRefused(
            3, 'api is of a site', base.SITES.replace(
                'user: external', 'user: external\n  operator: {api: x}', 1))
        self.assertMistake(
            23, 'in the name of a GlanceAPI', base.SITES.replace(
                '- name: dcn1', '- name: dcn1\n  operator: {api: a.b}'))

    def test_staging_outside_the_volume(self):
        self.assertMistake(14, 'staging of site dcn0 must be there',
                           base.SITES.replace(
                               '- name: dcn0', '- name: dcn0\n'
                               '  staging: /var/lib/glance2'))

    def test_templates(self):
        self.assertMistake(7, 'beginning of a template', base.SITES.replace(
            '- name: dcn0',
            '- name: dcn0\n  description: "{{ .ServicePassword }}"'))

    def test_no_key(self):
        for line, which, text in (
                (16, 'client.external needs a key for the cluster of site '
                 'dcn0, in cluster', '    key: {file: dcn0.keyring}\n'),
                (19, 'client.glance-dcn0 needs a key for the cluster of site '
                 'central, in at_central', ' {key: {file: guests.keyring}}')):
            before, found, after = base.SITES.partition(text)
            exc = self.assertRaises(
                sitesfile.Mistake, self.rendered, 'dcn0', text=before + (
                    '' if line == 16 else ' {}') + after)
            self.assertIn(which, exc.reason)
            self.assertEqual(line, exc.line)
