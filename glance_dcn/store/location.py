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

"""Where an image lies: ``rbd://<fsid>/<pool>/<image>/<snapshot>``.

Nova and Cinder clone only from locations of this form and scheme (Nova's
``nova.storage.rbd_utils.RBDDriver.parse_url``).
"""

from __future__ import annotations

import urllib.parse

from glance_store import exceptions
from glance_store import location

_PREFIX = 'rbd://'


class StoreLocation(location.StoreLocation):
    """A location in the pool of some site.

    :ivar fsid: None in the old form ``rbd://<image>``, as pool and snapshot
    """

    def process_specs(self) -> None:
        """Take the parts from the ``specs`` given to the constructor."""
        self.fsid: str | None = self.specs.get('fsid')
        self.pool: str | None = self.specs.get('pool')
        self.image: str = self.specs.get('image')
        self.snapshot: str | None = self.specs.get('snapshot')

    def get_uri(self) -> str:
        """Return the location as a URI."""
        if not (self.fsid and self.pool and self.snapshot):
            return _PREFIX + self.image
        return _PREFIX + '/'.join(
            urllib.parse.quote(part, safe='')
            for part in (self.fsid, self.pool, self.image, self.snapshot))

    def parse_uri(self, uri: str) -> None:
        """Take the parts from a URI.

        :raises exceptions.BadStoreUri: if it is of another scheme, or has not
            one or four non-empty parts
        """
        self.validate_schemas(uri, valid_schemas=(_PREFIX,))
        pieces = [urllib.parse.unquote(piece)
                  for piece in uri[len(_PREFIX):].split('/')]
        if len(pieces) not in (1, 4):
            raise exceptions.BadStoreUri(
                message='%s: an rbd location has 1 part (image) or 4 (fsid, '
                        'pool, image, snapshot)' % uri)
        if not all(pieces):
            raise exceptions.BadStoreUri(
                message='%s: an rbd location has no empty parts' % uri)
        self.fsid = self.pool = self.snapshot = None
        if len(pieces) == 1:
            [self.image] = pieces
        else:
            self.fsid, self.pool, self.image, self.snapshot = pieces
