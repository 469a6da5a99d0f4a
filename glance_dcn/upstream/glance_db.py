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

"""What Glance's database says of an image and its locations.

Data at a site is removed only when Glance's database says that it may be: a
record is but a hint. Only a process of Glance's can ask; others import this
too, so Glance is imported when the database is asked.
"""

from __future__ import annotations

import dataclasses
import enum
import typing

from glance_dcn.runtime import green
from glance_dcn.upstream import glance_interfaces

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from oslo_config import cfg

#: Property that holds the ID of the task that has the image, and only that.
LOCK = 'os_glance_import_task'
# Statuses of images that a request is about to give data, and of images whose
# data is staged for an import.
_UNSETTLED = ('saving', 'importing', 'uploading')


class Location(enum.Enum):
    """What Glance's database says of a location.

    NAMED: the image has it, or may still be given back (delayed delete).
    NOT_NAMED: Glance knows the image, and it does not have the location.
    DELETED: Glance knows that the image was deleted.
    UNKNOWN: the database never had the image, or has forgotten it; never a
    permission.
    """

    NAMED = 'named'
    NOT_NAMED = 'not named'
    DELETED = 'deleted'
    UNKNOWN = 'unknown'


@dataclasses.dataclass(frozen=True)
class Answer:
    """What Glance's database says of an image at a location.

    :ivar settled: whether no request or task can be about to add a location
        to the image: it is not locked by an import or a copy, nor is any of
        its data on its way
    :ivar was_named: whether the image has the location, or had it once
    """

    location: Location
    settled: bool = True
    was_named: bool = False

    @property
    def permits_removal(self) -> bool:
        """Whether data at the location may be removed."""
        return (self.location is Location.DELETED
                or (self.location is Location.NOT_NAMED and self.settled))


class GlanceDatabase:
    """The database of the Glance that this process belongs to.

    :param conf: of Glance
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    @property
    def available(self) -> bool:
        """Whether it can be asked, and is as this package knows it."""
        return glance_interfaces.usable(glance_interfaces.DATABASE)

    def ask(self, image_id: str, uri: str) -> Answer:
        """Return what the database says of an image at a location.

        :raises RuntimeError: if it is not as this package knows it
        :raises glance_dcn.runtime.green.Unavailable: if the hub of a process
            that eventlet has patched does not answer
        :raises Exception: what Glance raises if its database does not answer
        """
        if not self.available:
            raise RuntimeError('it is not one that this release of glance-dcn '
                               'knows')
        return green.call(self._ask, image_id, uri)

    def _ask(self, image_id: str, uri: str) -> Answer:
        # With the locations that were dropped.
        image = _get_image(image_id, deleted=True)
        if image is None:
            return Answer(Location.UNKNOWN, settled=False)
        was_named = uri in self._uris(image['locations'])
        if image['status'] == 'pending_delete':
            location = Location.NAMED
        elif image['deleted']:
            location = Location.DELETED
        elif uri in self._uris(location for location in image['locations']
                               if location['status'] in (
                                   'active', 'pending_delete')):
            location = Location.NAMED
        else:
            location = Location.NOT_NAMED
        return Answer(location, _is_settled(image), was_named)

    def locations(self, image_id: str) -> set[str]:
        """Return the URIs of an image's locations; for threads of requests.

        There are none if there is no such image.
        """
        image = _get_image(image_id)
        return self._uris(image['locations'] if image else ())

    def location_ids(self, image_id: str) -> set[int]:
        """Return the IDs of an image's locations; for threads of requests."""
        image = _get_image(image_id)
        return {location['id'] for location in image['locations']
                if location['status'] == 'active'} if image else set()

    def drop_location(self, image_id: str, location_id: int) -> None:
        """Take a location off an image; for threads of requests."""
        from glance import context
        from glance import db
        db.get_api().image_location_delete(
            context.get_admin_context(), image_id, location_id, 'deleted')

    def _uris(self, locations: Iterable[dict[str, typing.Any]]) -> set[str]:
        """Return the URIs of locations, which Glance may keep encrypted."""
        return {clear_url(self._conf, location) for location in locations}


def clear_url(conf: cfg.ConfigOpts, location: dict[str, typing.Any]) -> str:
    """Return the URL of a location, which Glance may keep encrypted."""
    from glance.common import crypt
    key = conf.metadata_encryption_key
    url: str = location['url']
    return str(crypt.urlsafe_decrypt(key, url)) if key else url


def of(conf: cfg.ConfigOpts) -> GlanceDatabase | None:
    """Return the database behind a configuration, None if not Glance's."""
    return GlanceDatabase(conf) if glance_interfaces.OPTION in conf else None


def _get_image(image_id: str, deleted: bool = False
               ) -> dict[str, typing.Any] | None:
    """Return an image of the database.

    :param deleted: whether deleted images and locations are shown
    """
    from glance.common import exception
    from glance import context
    from glance import db
    try:
        found: dict[str, typing.Any] = db.get_api().image_get(
            context.get_admin_context(show_deleted=deleted), image_id,
            force_show_deleted=deleted)
    except exception.NotFound:
        return None
    return found


def _is_settled(image: dict[str, typing.Any]) -> bool:
    locked = any(item['name'] == LOCK and not item['deleted']
                 for item in image['properties'])
    return not locked and image['status'] not in _UNSETTLED
