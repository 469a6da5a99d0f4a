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

"""The sites behind Glance's store identifiers."""

from __future__ import annotations

import glance_store
from oslo_config import cfg

from glance_dcn.sites import site as sites

CONF = cfg.CONF


def site(store: str | None) -> sites.Site | None:
    """Return the site of a store by its identifier.

    :returns: None for stores of other types, and where Glance has a single
        store without an identifier
    """
    if not store or not CONF.enabled_backends:
        return None
    try:
        driver = glance_store.get_store_from_store_identifier(store)
    except glance_store.UnknownScheme:
        return None
    found = getattr(driver, 'site', None)
    return found if isinstance(found, sites.Site) else None


def name_once(stores: list[str | None]) -> None:
    """Remove from a list, in place, stores that it names once more.

    Glance takes what a request names as it is: an import cannot begin with
    two tasks of one name, and two writers of one image would fight.
    """
    stores[:] = dict.fromkeys(stores)
