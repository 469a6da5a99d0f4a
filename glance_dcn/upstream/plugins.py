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

"""Which of two plugins of one name Glance uses.

Glance looks up the plugin of an import method by the method's name, which is
a closed set; of glance_dcn's ``copy_image`` and stock's, stevedore uses that
which it found last. That order is one of sys.path and of folders. It is kept
for the whole process in a list, though, that can be sorted before it is used.
"""

from __future__ import annotations

import typing

from stevedore import extension

if typing.TYPE_CHECKING:
    from importlib import metadata

    from oslo_config import cfg

NAMESPACE = 'glance.image_import.internal_plugins'
#: Namespace of the plugins of oslo.middleware's healthcheck.
HEALTHCHECK = 'oslo.middleware.healthcheck'
_OURS = 'glance_dcn.'
#: The import plugin with which imports have a journal and a heartbeat.
STAGING = 'dcn_distributed_staging'


def staging_is_used(conf: cfg.ConfigOpts) -> bool:
    """Return whether imports have a journal and a heartbeat."""
    conf.import_opt('image_import_plugins',
                    'glance.async_.flows.api_image_import',
                    group='image_import_opts')
    return STAGING in conf.image_import_opts.image_import_plugins


def prefer_ours() -> None:
    """Put glance_dcn's plugins last, so that they win."""
    entry_points(NAMESPACE).sort(key=_is_ours)


def order_is_kept() -> bool:
    """Return whether the order of entry points holds for the whole process.

    It does if stevedore gives the same list again.
    """
    return entry_points(NAMESPACE) is entry_points(NAMESPACE)


def ours_wins(name: str) -> bool:
    """Return whether glance_dcn's plugin of a name is the one Glance uses.

    It is not known, and taken not to be, if the order is not kept.
    """
    found = [point for point in entry_points(NAMESPACE)
             if point.name == name]
    return bool(found) and order_is_kept() and _is_ours(found[-1])


def entry_points(namespace: str) -> list[metadata.EntryPoint]:
    """Return the very list that stevedore keeps; nothing is imported."""
    points: list[metadata.EntryPoint] = (
        extension.ExtensionManager.make_test_instance(
            [], namespace=namespace).list_entry_points())
    return points


def _is_ours(point: metadata.EntryPoint) -> bool:
    return point.value.startswith(_OURS)
