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

"""Stores of a Glance, as glance_store knows them."""

from __future__ import annotations

import types

import fixtures
from glance.common import store_utils  # noqa: F401 (registers options)
import glance_store
from oslo_config import cfg

from glance_dcn.sites import site as sites
from glance_dcn.store import location


_STAGING = 'os_glance_staging_store'
_RESERVED = {_STAGING: 'file'}


class Map(fixtures.Fixture):
    """Stores whose drivers are there already, in glance_store's own map.

    :param found: their sites, by store; None: one of another type
    """

    def __init__(self, **found: sites.Site | None) -> None:
        super().__init__()
        self._found = found

    def _setUp(self) -> None:
        self.useFixture(fixtures.MonkeyPatch(
            'glance_store.location.SCHEME_TO_CLS_BACKEND_MAP', {'rbd': {
                name: {'store': types.SimpleNamespace(
                           site=found, weight=0,
                           is_capable=lambda *masks: True),
                       'location_class': location.StoreLocation}
                for name, found in self._found.items()}}))


class Stores(fixtures.Fixture):
    """Such stores, which are configured, and an empty staging folder.

    :param found: as for :class:`Map`
    """

    def __init__(self, **found: sites.Site | None) -> None:
        super().__init__()
        self._found = found

    def _setUp(self) -> None:
        self.useFixture(Map(**self._found))
        self.useFixture(fixtures.MonkeyPatch(
            'glance_store.multi_backend._RESERVED_STORES', {}))
        cfg.CONF.set_override('enabled_backends',
                              dict.fromkeys(self._found, 'rbd'))
        self.addCleanup(cfg.CONF.clear_override, 'enabled_backends')
        self._register()
        cfg.CONF.set_override('filesystem_store_datadir',
                              self.useFixture(fixtures.TempDir()).path,
                              _STAGING)
        self.addCleanup(cfg.CONF.clear_override, 'filesystem_store_datadir',
                        _STAGING)

    def _register(self) -> None:
        """Register the options of the stores for as long as this is used.

        Other tests have stores of the same names, and other types.
        """
        for name in (*self._found, _STAGING):
            group = cfg.CONF._get_group(name, autocreate=True)
            self.useFixture(fixtures.MockPatchObject(group, '_opts', {}))
        glance_store.register_store_opts(cfg.CONF, _RESERVED)
