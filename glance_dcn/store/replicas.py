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

"""Where else the image of a location lies, among the stores of this process.

Glance gives a driver one location at a time. At other sites an image has the
same name, its UUID; whether it is the same image, its record tells.
"""

import itertools

from glance_store import location

from glance_dcn.ceph import images
from glance_dcn.ceph import records
from glance_dcn.sites import reading
from glance_dcn.sites import sources


class Replicas:
    """The places where the image of a location may be read.

    :param store: the ``dcn`` driver of the location
    :param loc: :class:`glance_dcn.store.location.StoreLocation`
    """

    def __init__(self, store, loc):
        self._store = store
        self._own = sources.Source(store.site, loc.pool, loc.image,
                                   loc.snapshot)
        group = getattr(store.conf, 'glance_store', None)
        self._local = getattr(group, 'default_backend', None)
        self._stores = {}
        # An image that somebody else named is looked for nowhere else.
        if (loc.pool, loc.snapshot) == (store.pool, images.SNAPSHOT):
            self._stores = _stores(type(store))
        self._weights = {name: getattr(one, 'weight', 0)
                         for name, one in self._stores.items()}

    def relay(self, endpoint):
        """Return how the image is read, from one place after the other.

        :param endpoint: engine endpoint, the image open at its location
        :returns: :class:`glance_dcn.sites.reading.Relay`
        :raises rbd.Error: if it cannot be told
        """
        others = [sources.Source(store.site, None, self._own.image,
                                 images.SNAPSHOT)
                  for store in self._stores.values()
                  if store is not self._store]
        record = records.load(endpoint.image) if others else None
        if record is None or record.size != endpoint.size:
            return reading.Relay([self._own])
        # Which of the others will do is asked when one is needed.
        return reading.Relay(itertools.chain(
            [self._own], self._in_order(others)), record)

    def _in_order(self, others):
        # Not before it is needed: it changes.
        yield from sources.ordered(others, self._local, self._weights)


def _stores(kind):
    """Return the stores of a kind that glance_store has, by identifier."""
    known = location.SCHEME_TO_CLS_BACKEND_MAP.get('dcn', {})
    return {name: entry['store'] for name, entry in known.items()
            if isinstance(entry.get('store'), kind)}
