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


"""Options of Glance that a sites file gives, beside those that follow."""

from __future__ import annotations

import re
import typing

from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from glance_dcn.deploy import model
    from glance_dcn.deploy import secrets

_GROUP = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.:-]*', re.ASCII)
_OPTION = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_-]*', re.ASCII)

# Where they come from instead.
_OURS = {
    ('DEFAULT', 'enabled_backends'): 'sites',
    ('DEFAULT', 'enabled_import_methods'): 'import_methods',
    ('DEFAULT', 'worker_self_reference_url'): 'workers',
    ('DEFAULT', 'image_cache_max_size'): 'cache_size',
    ('DEFAULT', 'node_staging_uri'): 'staging',
    ('glance_store', 'default_backend'): 'sites',
    ('image_import_opts', 'image_import_plugins'): 'import_plugins',
    ('os_glance_staging_store', 'filesystem_store_datadir'): 'staging',
    ('glance_dcn', 'sites_dir'): 'paths',
}
# The same, of whatever store: what is compared with the other sites must be
# what Glance is told.
_OF_STORES = {
    'rbd_store_ceph_conf': 'cluster',
    'rbd_store_user': 'cluster',
    'rbd_store_pool': 'pool',
}
#: Groups that TripleO and the operators on Kubernetes write themselves, with
#: secrets that a sites file does not have.
DEPLOYERS = frozenset((
    'barbican', 'barbican_service_user', 'database', 'keystone_authtoken',
    'oslo_limit', 'oslo_messaging_notifications', 'oslo_messaging_rabbit',
    'paste_deploy', 'service_user'))
# Options that hold a password or a key.
_SECRET = re.compile(r'password|secret(?!_name)|passphrase|(^|_)key$'
                     r'|(^|_)(root|admin|auth)_token(_id)?$'
                     '|^(approle_role_id|hmac_keys|token)$')
# A password may have any character; better to hide too much.
_USER_INFO = re.compile(r'://\S*:\S*@')


def read(path: str, node: sitesfile.Node,
         reference: Callable[[sitesfile.Node, str], secrets.Secret]
         ) -> model.Options:
    """Return options by (group, option).

    :param node: mapping of groups, each a mapping of options
    :param reference: called with the node and the name of what is a mapping
    :raises sitesfile.Mistake: if they cannot be options
    """
    groups = _mapping(path, node, 'glance')
    found: model.Options = {}
    for group, node in groups.items.items():
        if not _GROUP.fullmatch(group):
            raise sitesfile.Mistake(path, groups.lines[group],
                                    '%r is no group of options' % group[:60])
        options = _mapping(path, node, group)
        for option, value in options.items.items():
            line = options.lines[option]
            _check(path, line, group, option)
            if isinstance(value, sitesfile.Mapping):
                found[group, option] = reference(value, option)
            else:
                text = sitesfile.text_of(path, value, option)
                _check_open(path, line, option, text)
                found[group, option] = text
    return found


def without_deployers(found: model.Options
                      ) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return options that another deployer leaves to a sites file.

    A group that it writes itself would have its options replaced by those
    here, and without its secrets it is of no use.

    :returns: tuple of those whose values are text, and a list of what is left
        out: groups, and single options of [DEFAULT], as people write them
    """
    secret = {name for name, value in found.items()
              if not isinstance(value, str)}
    left = {group for group, _option in found if group.lower() in DEPLOYERS}
    left.update(group for group, _option in secret if group != 'DEFAULT')
    single = {name for name in secret if name[0] == 'DEFAULT'}
    return ({name: value for name, value in found.items()
             if isinstance(value, str) and name[0] not in left},
            ['[%s] %s' % name for name in sorted(single)]
            + ['[%s]' % group for group in sorted(left)])


def is_secret(option: str) -> bool:
    """Return whether an option is a password or a key by its name."""
    return bool(_SECRET.search(option))


def has_password(text: str) -> bool:
    """Return whether a value is a URL with a password."""
    return bool(_USER_INFO.search(text))


def _mapping(path: str, node: sitesfile.Node, what: str) -> sitesfile.Mapping:
    if not isinstance(node, sitesfile.Mapping):
        raise sitesfile.Mistake(path, node.line, '%s must be a mapping, but '
                                'this is %s' % (what, node.kind))
    return node


def _check(path: str, line: int, group: str, option: str) -> None:
    if not _OPTION.fullmatch(option):
        raise sitesfile.Mistake(path, line, '%r is no option' % option[:60])
    # Groups are told apart without regard to case, but DEFAULT.
    known = group if group == 'DEFAULT' else group.lower()
    source = _OURS.get((known, option)) or _OF_STORES.get(option)
    if source:
        raise sitesfile.Mistake(
            path, line, '[%s] %s follows from the key %s of the sites file'
            % (group, option, source))


def _check_open(path: str, line: int, option: str, text: str) -> None:
    """Raise Mistake if a text that stands in the sites file is a secret."""
    if not is_secret(option) and not has_password(text):
        return
    raise sitesfile.Mistake(path, line, '%s is a secret and must not stand '
                            'here itself, but as {file: PATH} or {env: NAME}'
                            % option)
