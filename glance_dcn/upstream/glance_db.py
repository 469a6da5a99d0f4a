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
# Status of a location whose data is being removed: one of Glance's, which
# gives it to locations of deleted images alone.
_REMOVING = 'pending_delete'


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

    def claim_removal(self, image_id: str, location: int,
                      others: dict[int, str]) -> str | None:
        """Mark a location as being removed, as the only one of its image.

        Glance has the data of a location removed, and then saves the locations
        that the image had before, but that one. So two requests at once could
        remove all data, and the later to save would bring back a location
        whose data the other has removed. For threads of requests.

        Where several nodes of a Galera cluster are written to at a time, two
        may be marked: none of them sees what the others have locked.

        :param location: its ID in the database
        :param others: identifiers of the stores of all other locations that
            the request knows, by their IDs
        :returns: None if it is marked; otherwise why it is not
        """
        from glance import db
        from glance.db.sqlalchemy import models
        from oslo_db import api as oslo_db_api
        import sqlalchemy
        images, table = models.Image.__table__, models.ImageLocation.__table__
        there = table.c.image_id == image_id, table.c.deleted == (
            sqlalchemy.false())

        # As Glance's own functions, and as often as oslo.db has by default.
        @oslo_db_api.wrap_db_retry(retry_on_deadlock=True)
        def claim() -> str | None:
            with db.get_api().get_engine().connect() as connection, \
                    connection.begin() as transaction:
                # The row of the image is what such requests wait for; SQLite
                # has one writer at a time, from its first change on.
                connection.execute(sqlalchemy.select(images.c.id).where(
                    images.c.id == image_id).with_for_update())
                connection.execute(table.update().where(
                    *there, table.c.id == location
                ).values(status=_REMOVING))
                found = {one.id: one.status for one in connection.execute(
                    sqlalchemy.select(table.c.id, table.c.status).where(
                        *there).with_for_update())}
                refusal = _refusal(found, location, others)
                if refusal:
                    transaction.rollback()
                return refusal
        refusal: str | None = claim()
        return refusal

    def release_removal(self, image_id: str, location: int) -> None:
        """Take back the mark of a location that is not removed after all."""
        from glance import db
        from glance.db.sqlalchemy import models
        import sqlalchemy
        table = models.ImageLocation.__table__
        with db.get_api().get_engine().begin() as connection:
            connection.execute(table.update().where(
                table.c.image_id == image_id, table.c.id == location,
                table.c.status == _REMOVING,
                table.c.deleted == sqlalchemy.false()
            ).values(status='active'))

    def _uris(self, locations: Iterable[dict[str, typing.Any]]) -> set[str]:
        """Return the URIs of locations, which Glance may keep encrypted."""
        return {clear_url(self._conf, location) for location in locations}


def _refusal(found: dict[int, str], location: int,
             others: dict[int, str]) -> str | None:
    """Return why a location must not be removed, or None.

    :param found: statuses of the image's locations by their IDs
    :param others: stores of those that the request knows
    """
    if location not in found or not set(others) <= set(found):
        return 'it was removed from a store meanwhile; look where it is'
    removing = sorted(others[other] for other in others
                      if found[other] == _REMOVING)
    if removing:
        return ('it is being removed from store %s; wait, or, if that was '
                'interrupted, repeat it' % ', '.join(removing))
    return None


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
