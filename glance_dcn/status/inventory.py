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

"""Images, their places and transfers, as Glance's database has them.

The database is asked itself, not the API: the API gives a page of images at a
time, with all their locations, which takes minutes where a deployment has
thousands of images at dozens of sites, and it does not tell whose copies are
owed, nor how far they are, without a request for each. Counting is left to
the database.
"""

from __future__ import annotations

import collections
from concurrent import futures
import dataclasses
import json
import re
import threading
import typing
import uuid

from oslo_config import cfg
import oslo_db.exception
import sqlalchemy
from sqlalchemy import sql

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator
    import datetime

_Answer = typing.TypeVar('_Answer')

IMPORTING = 'os_glance_importing_to_stores'
FAILED = 'os_glance_failed_import'
LOCK = 'os_glance_import_task'

_STORE = 'store'
# As in "Copying: 42 %, 9 MiB/s; dcn0: 128 MiB", for all stores at once, and in
# "Storing the image: central: 100 %, dcn0: 12 %", for each.
_OVERALL = re.compile(r'[^:]*: (\d{1,3}) %')
_OF_STORE = re.compile(r'[:,] ([^:,;]+): (\d{1,3}) %')
_ACTIVE = 'active'
# Length of what is of the image alone at the end of rbd://FSID/POOL/ID/snap.
_IMAGE_PART = len('/%s/snap' % uuid.UUID(int=0))
# Images whose locations are asked for in one go.
_BATCH = 500


@dataclasses.dataclass
class Image:
    """An image and where it is.

    :ivar present: names of stores that have it, as Glance says
    :ivar places: URIs of its locations, by store
    :ivar importing: names of stores that it is being written to
    :ivar failed: names of stores for which the last attempt failed
    """

    id: str
    name: str | None
    status: str
    owner: str | None
    size: int | None
    present: set[str] = dataclasses.field(default_factory=set)
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    importing: set[str] = dataclasses.field(default_factory=set)
    failed: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """An active import or copy.

    :ivar message: its progress, as its task says
    :ivar percent: the same as a number, or None; where stores are told one by
        one, of the one that is furthest behind
    :ivar heard: when its task was saved last, as text of ISO 8601 or empty
    :ivar percents: the same by store, of those that are told one by one
    """

    task: str
    image: str | None
    message: str
    percent: int | None
    begun: str
    heard: str
    percents: dict[str, int] = dataclasses.field(default_factory=dict)

    def percent_of(self, store: str) -> int | None:
        """Return how far it is at a store, as a number, or None.

        Of stores that are told one by one, those that are not are yet to be
        begun with.
        """
        return self.percents.get(store) if self.percents else self.percent


def _counters() -> typing.Any:
    return dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass
class Totals:
    """Images in numbers: all by status, and those of each store.

    :ivar data: bytes of all images
    :ivar stored: bytes by store
    :ivar places: (number, bytes) of images by what their URIs begin with,
        by store: ``rbd://FSID/POOL``
    """

    images: dict[str, int]
    data: int
    present: collections.Counter[str] = _counters()
    stored: collections.Counter[str] = _counters()
    importing: collections.Counter[str] = _counters()
    failed: collections.Counter[str] = _counters()
    places: dict[str, dict[str, tuple[int, int]]] = dataclasses.field(
        default_factory=dict)

    @property
    def active(self) -> int:
        """Number of images that can be used."""
        return self.images.get(_ACTIVE, 0)

    def missing(self, store: str) -> int:
        """Return the number of usable images that a store does not have."""
        return max(0, self.active - self.present.get(store, 0))


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which images are meant; None means all.

    :ivar image: ID
    :ivar name: part of the name
    :ivar site: name of a store that has it
    :ivar missing: name of a store that does not have it
    """

    image: str | None = None
    name: str | None = None
    owner: str | None = None
    status: str | None = None
    site: str | None = None
    missing: str | None = None


# What is asked for of Glance's tables. Its own description of them would make
# a dict of the metadata of every location.
_IMAGES = sql.table(
    'images', sql.column('id'), sql.column('name', sqlalchemy.String),
    sql.column('status'), sql.column('owner'), sql.column('size'),
    sql.column('deleted', sqlalchemy.Boolean))
_LOCATIONS = sql.table(
    'image_locations', sql.column('image_id'),
    sql.column('value', sqlalchemy.Text),
    sql.column('meta_data', sqlalchemy.Text), sql.column('status'),
    sql.column('deleted', sqlalchemy.Boolean))
_PROPERTIES = sql.table(
    'image_properties', sql.column('image_id'), sql.column('name'),
    sql.column('value'), sql.column('deleted', sqlalchemy.Boolean))
_TASKS = sql.table(
    'tasks', sql.column('id'), sql.column('image_id'), sql.column('type'),
    sql.column('status'), sql.column('created_at', sqlalchemy.DateTime),
    sql.column('updated_at', sqlalchemy.DateTime),
    sql.column('deleted', sqlalchemy.Boolean))
_INFOS = sql.table('task_info', sql.column('task_id'), sql.column('message'))


class DatabaseUnavailable(Exception):
    """The database of Glance does not answer, or refuses."""


class Database:
    """Asks the database of Glance one question at a time.

    The driver of a database may wait for ever for a server that hangs. Its
    thread is left behind then, and nothing more is asked while it waits.
    """

    def __init__(self) -> None:
        self._answer: futures.Future[typing.Any] | None = None

    def ask(self, question: Callable[[], _Answer], timeout: float) -> _Answer:
        """Return what a function returns that asks the database.

        :raises DatabaseUnavailable: if there is no answer within the seconds
        """
        if self._answer is not None and not self._answer.done():
            raise DatabaseUnavailable('it has not answered the last question')
        answer = self._answer = futures.Future[_Answer]()

        def run() -> None:
            try:
                answer.set_result(question())
            except Exception as exc:
                answer.set_exception(exc)
        # Not of an executor, which the end of the process would wait for.
        threading.Thread(target=run, name='database', daemon=True).start()
        if not futures.wait([answer], timeout).done:
            raise DatabaseUnavailable('it does not answer within %g s'
                                      % timeout)
        try:
            return answer.result()
        except (sqlalchemy.exc.SQLAlchemyError, oslo_db.exception.DBError,
                # No connection is configured.
                oslo_db.exception.CantStartEngineError) as exc:
            raise DatabaseUnavailable(str(exc).splitlines()[0]) from exc


def _engine() -> sqlalchemy.engine.Engine:
    from glance.db.sqlalchemy import api
    engine: sqlalchemy.engine.Engine = api.get_engine()
    return engine


# Questions for Database.ask(). They raise what SQLAlchemy and oslo.db do if
# the database does not answer.


def ping() -> None:
    """Return when each table that is read has answered.

    One that is locked, as while the database is migrated, does not.
    """
    with _engine().connect() as connection:
        for table in (_IMAGES, _LOCATIONS, _PROPERTIES, _TASKS, _INFOS):
            connection.execute(sql.select(1).select_from(table).limit(1))


def count() -> int:
    """Return the number of images."""
    with _engine().connect() as connection:
        return connection.execute(
            sql.select(sql.func.count()).select_from(_IMAGES)
            .where(_IMAGES.c.deleted.is_(False))).scalar_one()


def totals() -> Totals:
    """Return the numbers of all images."""
    result = Totals({}, 0)
    with _engine().connect() as connection:
        for status, number, data in connection.execute(
                sql.select(_IMAGES.c.status, sql.func.count(),
                           sql.func.sum(_IMAGES.c.size))
                .where(_IMAGES.c.deleted.is_(False))
                .group_by(_IMAGES.c.status)):
            result.images[status] = number
            result.data += int(data or 0)
        for metadata, prefix, number, data in _places(connection):
            store, data = _store(metadata), int(data or 0)
            if store is not None:
                result.present[store] += number
                result.stored[store] += data
                places = result.places.setdefault(store, {})
                before = places.get(prefix, (0, 0))
                places[prefix] = before[0] + number, before[1] + data
        for _image, name, stores in _properties_of(connection):
            (result.importing if name == IMPORTING
             else result.failed).update(stores)
    return result


def _located(*columns: typing.Any) -> sqlalchemy.Select[typing.Any]:
    """Return the query for columns of the locations of usable images."""
    return sql.select(*columns).select_from(_LOCATIONS.join(
        _IMAGES, _IMAGES.c.id == _LOCATIONS.c.image_id)).where(
            _LOCATIONS.c.deleted.is_(False), _LOCATIONS.c.status == _ACTIVE,
            _IMAGES.c.deleted.is_(False), _IMAGES.c.status == _ACTIVE)


def _places(connection: sqlalchemy.engine.Connection
            ) -> Iterator[tuple[str, str, int, int | None]]:
    """Give (metadata, what URIs begin with, number, bytes) of locations."""
    if _key():
        # Those that are encrypted have nothing in common.
        for metadata, uri, size in connection.execute(_located(
                _LOCATIONS.c.meta_data, _LOCATIONS.c.value, _IMAGES.c.size)):
            yield metadata, _clear(uri)[:-_IMAGE_PART], 1, size
        return
    length = sql.func.length(_LOCATIONS.c.value)
    # Those of other stores may be shorter.
    prefix = sql.case(
        (length > _IMAGE_PART, sql.func.substr(
            _LOCATIONS.c.value, 1, length - _IMAGE_PART)), else_='')
    yield from connection.execute(_located(
        _LOCATIONS.c.meta_data, prefix, sql.func.count(),
        sql.func.sum(_IMAGES.c.size)).group_by(
            _LOCATIONS.c.meta_data, prefix))


def locations() -> dict[str, set[str]]:
    """Return sets of the URIs of all usable images, by store."""
    result: dict[str, set[str]] = {}
    with _engine().connect() as connection:
        for metadata, uri in connection.execute(_located(
                _LOCATIONS.c.meta_data, _LOCATIONS.c.value)):
            store = _store(metadata)
            if store is not None:
                result.setdefault(store, set()).add(_clear(uri))
    return result


def _key() -> str | None:
    """Return the key that Glance encrypts locations with, or None."""
    return getattr(cfg.CONF, 'metadata_encryption_key', None)


def _clear(uri: str) -> str:
    """Return a URI as Glance shows it."""
    key = _key()
    if not key:
        return uri
    from glance.common import crypt
    return str(crypt.urlsafe_decrypt(key, uri))


def images(wanted: Filter, limit: int) -> tuple[list[Image], int]:
    """Return images in the order of names, and the number of all meant."""
    conditions = _conditions(wanted)
    with _engine().connect() as connection:
        rows = connection.execute(
            sql.select(_IMAGES.c.id, _IMAGES.c.name, _IMAGES.c.status,
                       _IMAGES.c.owner, _IMAGES.c.size).where(*conditions)
            .order_by(_IMAGES.c.name, _IMAGES.c.id).limit(limit + 1)).all()
        number = len(rows)
        if number > limit:
            number = connection.execute(
                sql.select(sql.func.count()).select_from(_IMAGES)
                .where(*conditions)).scalar_one()
        found = {row.id: Image(*row) for row in rows[:limit]}
        ids = list(found)
        for first in range(0, len(ids), _BATCH):
            _locate(connection, found, ids[first:first + _BATCH])
    return list(found.values()), number


def _conditions(wanted: Filter) -> list[sqlalchemy.ColumnElement[bool]]:
    """Return the conditions that a filter stands for."""
    result: list[sqlalchemy.ColumnElement[bool]] = [
        _IMAGES.c.deleted.is_(False)]
    for column, value in ((_IMAGES.c.owner, wanted.owner),
                          (_IMAGES.c.status, wanted.status)):
        if value is not None:
            result.append(column == value)
    if wanted.image is not None:
        # Glance keeps an ID as the user wrote it, who may have chosen it.
        result.append(sql.func.lower(_IMAGES.c.id) == wanted.image.lower())
    if wanted.name is not None:
        result.append(_IMAGES.c.name.contains(wanted.name, autoescape=True))

    def located(store: str) -> sqlalchemy.ColumnElement[bool]:
        text = json.dumps({_STORE: store})[1:-1]
        # A set that is made once, and not a look for each image.
        return _IMAGES.c.id.in_(sql.select(_LOCATIONS.c.image_id).where(
            _LOCATIONS.c.deleted.is_(False), _LOCATIONS.c.status == _ACTIVE,
            _LOCATIONS.c.meta_data.contains(text, autoescape=True)))
    if wanted.site is not None:
        result.append(located(wanted.site))
    if wanted.missing is not None:
        result += [_IMAGES.c.status == _ACTIVE, ~located(wanted.missing)]
    return result


def _locate(connection: sqlalchemy.engine.Connection, found: dict[str, Image],
            ids: list[str]) -> None:
    """Fill in where images are."""
    for image, metadata, uri in connection.execute(
            sql.select(_LOCATIONS.c.image_id, _LOCATIONS.c.meta_data,
                       _LOCATIONS.c.value)
            .where(_LOCATIONS.c.image_id.in_(ids),
                   _LOCATIONS.c.deleted.is_(False),
                   _LOCATIONS.c.status == _ACTIVE)):
        store = _store(metadata)
        if store is not None:
            found[image].present.add(store)
            found[image].places[store] = _clear(uri)
    for image, name, stores in _properties_of(connection, ids):
        (found[image].importing if name == IMPORTING
         else found[image].failed).update(stores)


def _properties_of(connection: sqlalchemy.engine.Connection,
                   ids: list[str] | None = None
                   ) -> Iterator[tuple[str, str, list[str]]]:
    """Give (image, property, stores) of what says who is being written to."""
    query = sql.select(
        _PROPERTIES.c.image_id, _PROPERTIES.c.name, _PROPERTIES.c.value
    ).where(_PROPERTIES.c.name.in_((IMPORTING, FAILED)),
            _PROPERTIES.c.deleted.is_(False), _PROPERTIES.c.value != '')
    if ids is None:
        query = query.select_from(_PROPERTIES.join(
            _IMAGES, _IMAGES.c.id == _PROPERTIES.c.image_id)).where(
                _IMAGES.c.deleted.is_(False))
    else:
        query = query.where(_PROPERTIES.c.image_id.in_(ids))
    for image, name, value in connection.execute(query):
        yield image, name, [store for store in value.split(',') if store]


def locked() -> list[str]:
    """Return the IDs of the images that an import or a copy has."""
    with _engine().connect() as connection:
        return list(connection.execute(
            sql.select(_IMAGES.c.id).select_from(_PROPERTIES.join(
                _IMAGES, _IMAGES.c.id == _PROPERTIES.c.image_id)).where(
                    _PROPERTIES.c.name == LOCK, _PROPERTIES.c.value != '',
                    _PROPERTIES.c.deleted.is_(False),
                    _IMAGES.c.deleted.is_(False)).order_by(_IMAGES.c.id)
        ).scalars())


def transfers() -> list[Transfer]:
    """Return the active transfers."""
    with _engine().connect() as connection:
        return [_transfer(*row) for row in connection.execute(
            sql.select(_TASKS.c.id, _TASKS.c.image_id, _INFOS.c.message,
                       _TASKS.c.created_at, _TASKS.c.updated_at)
            .select_from(_TASKS.join(_INFOS, _INFOS.c.task_id == _TASKS.c.id))
            .where(_TASKS.c.deleted.is_(False),
                   _TASKS.c.type == 'api_image_import',
                   _TASKS.c.status == 'processing')
            .order_by(_TASKS.c.created_at))]


def _transfer(task: str, image: str | None, message: str | None,
              begun: datetime.datetime | None,
              heard: datetime.datetime | None) -> Transfer:
    message = message or ''
    percents = {store: int(percent)
                for store, percent in _OF_STORE.findall(message)}
    overall = _OVERALL.match(message)
    percent = int(overall.group(1)) if overall else min(
        percents.values(), default=None)
    return Transfer(task, image, message, percent, _time(begun), _time(heard),
                    percents)


def _time(moment: datetime.datetime | None) -> str:
    return moment.strftime('%Y-%m-%dT%H:%M:%SZ') if moment else ''


def _store(metadata: str | None) -> str | None:
    """Return the store of a location; None: Glance does not know it."""
    try:
        store: str | None = json.loads(metadata or '{}').get(_STORE)
    except (ValueError, AttributeError):
        return None
    return store
