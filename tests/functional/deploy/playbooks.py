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


"""Deployers that work with ansible: a host that is this machine.

kolla-ansible is run as it is installed: its own role of Glance, with its own
templates and plugins. The role of openstack-ansible is in no registry that
the tests install from: what it does with the variables is written here, with
its own plugin, ansible-config-template; with OS_GLANCE_ROLE, the path of a
clone of openstack-ansible-os_glance, its own templates and defaults are taken.
"""

import json
import os
import pathlib
import shutil
import subprocess

import yaml

from lab import wsgi

_HERE = pathlib.Path(__file__).parent
_SHARE = wsgi.BIN.parent / 'share'
_KOLLA = _SHARE / 'kolla-ansible/ansible'
_HOST = 'ctl'
# What the role is run for: its configuration, without containers.
_KOLLA_PLAYBOOK = [{
    'hosts': 'glance-api', 'gather_facts': True,
    'gather_subset': ['!all', '!min', 'platform', 'network'],
    'tasks': [{'include_role': {'name': 'glance',
                                'tasks_from': 'config.yml'}}]}]
# What os_glance and ceph_client do, by their documentation.
_OPENSTACK_ANSIBLE_PLAYBOOK = [{
    'hosts': 'glance_api', 'gather_facts': True,
    'gather_subset': ['!all', 'hardware'],
    'vars_files': [],
    'tasks': [
        {'config_template': {
            'src': '{{ glance_template }}',
            'dest': '{{ glance_etc_dir }}/glance-api.conf', 'mode': '0640',
            'config_overrides': '{{ glance_glance_api_conf_overrides }}',
            'config_type': 'ini'}},
        {'copy': {'src': '{{ item.src }}',
                  'dest': '{{ container }}{{ item.dest }}', 'mode': '0644'},
         'with_items': '{{ ceph_extra_confs | default([]) }}',
         'when': "'rbd' in glance_available_store_types"},
        {'copy': {'src': '{{ item.keyring_src }}',
                  'dest': '{{ container }}{{ item.keyring_dest }}',
                  'mode': '0640'},
         'with_items': '{{ ceph_extra_confs | default([]) }}',
         'when': "'rbd' in glance_available_store_types"}]}]


class KollaAnsible:
    """kolla-ansible with a configuration folder and one host.

    :ivar etc: the folder, as /etc/kolla
    :ivar container: root folder of files in the container of Glance

    :param folder: of the test's own
    """

    name = '/etc/kolla'

    def __init__(self, folder):
        self.etc = folder / 'kolla'
        self.container = folder / 'container'
        self._folder = folder
        self._node = folder / 'node'

    def prepare(self, variables, secrets):
        """Write what a deployer has before: stock Ceph, one store."""
        (self.etc / 'config/glance').mkdir(parents=True)
        _write(self.etc / 'globals.yml', dict(
            variables, node_config_directory=str(self._node),
            # Those of a container's user cannot be had without one.
            config_owner_user=os.getuid(), config_owner_group=os.getgid(),
            # From a collection that is not installed here.
            kolla_same_external_internal_vip=True,
            openstack_service_workers=1))
        _write(self.etc / 'passwords.yml', secrets)
        play = self._folder / 'play'
        play.mkdir()
        for name in ('group_vars', 'roles', 'filter_plugins',
                     'action_plugins', 'library'):
            (play / name).symlink_to(_KOLLA / name)
        _write(play / 'site.yml', _KOLLA_PLAYBOOK)

    def reconfigure(self):
        """Do what ``kolla-ansible reconfigure`` does with the files."""
        found = [self.etc / 'globals.yml', self.etc / 'passwords.yml',
                 *sorted((self.etc / 'globals.d').glob('*.yml'))]
        _play(self._folder, self._folder / 'play/site.yml', 'glance-api',
              found, CONFIG_DIR=str(self.etc))
        # As the container does when it starts.
        shutil.rmtree(self.container, ignore_errors=True)
        copied = json.loads((
            self._node / 'glance-api/config.json').read_text())
        for each in copied['config_files']:
            source = self._node / 'glance-api' / pathlib.Path(
                each['source']).relative_to('/var/lib/kolla/config_files')
            target = self.container / each['dest'].lstrip('/')
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


class OpenstackAnsible:
    """openstack-ansible with a configuration folder and one host.

    For the attributes see :class:`KollaAnsible`.
    """

    name = '/etc/openstack_deploy'

    def __init__(self, folder):
        self.etc = folder / 'openstack_deploy'
        self.container = folder / 'container'
        self._folder = folder
        self._role = os.environ.get('OS_GLANCE_ROLE')

    def prepare(self, variables, secrets):
        """Write what a deployer has before: stock Ceph, one store."""
        self.etc.mkdir()
        _write(self.etc / 'user_variables.yml', variables)
        _write(self.etc / 'user_secrets.yml', secrets)
        for name in ('etc/glance', 'etc/ceph'):
            (self.container / name).mkdir(parents=True)
        role = pathlib.Path(self._role or _HERE
                            / 'os_glance')
        plays = [dict(play, vars_files=[
            # The defaults of a role count least.
            str(role / 'defaults/main.yml'), str(role / 'vars/main.yml')])
            for play in _OPENSTACK_ANSIBLE_PLAYBOOK]
        _write(self._folder / 'site.yml', plays)
        self._template = role / 'templates/glance-api.conf.j2'

    def reconfigure(self):
        """Do what the playbook of Glance does with the files."""
        _play(self._folder, self._folder / 'site.yml', 'glance_api',
              sorted(self.etc.glob('user_*.yml')),
              glance_template=str(self._template),
              glance_etc_dir=str(self.container / 'etc/glance'),
              container=str(self.container))


def _write(path, data):
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    path.chmod(0o600)


def _play(folder, playbook, group, files, **variables):
    """Run a playbook on this machine with variables of a deployer.

    :param group: of the host
    :param files: paths of variables, the last of which count
    """
    inventory = folder / 'inventory'
    inventory.write_text(
        '[%s]\n%s ansible_connection=local ansible_become=false '
        'ansible_python_interpreter=%s api_interface_address=127.0.0.1\n'
        '[memcached]\n[rabbitmq]\n%s\n' % (
            group, _HOST, wsgi.BIN / 'python', _HOST))
    done = subprocess.run(
        [wsgi.BIN / 'ansible-playbook', '--inventory', inventory,
         *('-e@%s' % path for path in files), '-e', json.dumps(variables),
         playbook], check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=300, env=dict(
            os.environ, HOME=str(folder), ANSIBLE_PIPELINING='true',
            ANSIBLE_NOCOLOR='1', ANSIBLE_LOCAL_TEMP=str(folder / 'local'),
            ANSIBLE_REMOTE_TEMP=str(folder / 'remote'),
            OSA_CONFIG_DIR=str(folder / 'openstack_deploy'),
            ANSIBLE_ACTION_PLUGINS=str(_HERE / 'action_plugins'),
            ANSIBLE_LIBRARY=str(_SHARE / 'ansible/plugins/modules')))
    if done.returncode:
        raise AssertionError(done.stdout[-5000:])
