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

"""The record of sites that come and go: kept where Glance's own images are.

A site that was taken away keeps serving what it holds, also after a restart
of Glance, so what described it must outlive its file. It is an omap in the
home of the records: ``site/<name>`` has the options of the site's store,
``holder/<name>/<host>`` the count by which a host says that it has the file
of the site. There are no secrets in it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import json
import logging
import typing

import rados

from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format

LOG = logging.getLogger(__name__)

#: Name of the RADOS object.
OBJECT = 'sites'

_SITE = 'site/'
_HOLDER = 'holder/'

_Record = typing.TypeVar('_Record')


class RecordError(Exception):
    """The record cannot be read or written."""

    def __init__(self, store: str, reason: object) -> None:
        super().__init__('the record of sites in the pool of store %s cannot '
                         'be used (%s); see the osd caps of its user'
                         % (store, reason))
        self.store = store


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of a site, as they are kept.

    :ivar options: each value as a JSON string, for it may have several lines
    """

    options: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Holder:
    """When a host said that it has the file of a site."""

    seconds: float


@dataclasses.dataclass
class Definition:
    """A site that is recorded.

    :ivar holders: seconds since the epoch, by host that has its file
    """

    options: dict[str, str]
    holders: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Recorded:
    """What was recorded at about one moment.

    :ivar sites: by name of the site
    :ivar of_other_release: by name of a site of which another release has
        recorded something, why that is unreadable. Such a site is in
        ``sites`` as well if it is only what a host has said of it
    """

    sites: dict[str, Definition] = dataclasses.field(default_factory=dict)
    of_other_release: dict[str, str] = dataclasses.field(default_factory=dict)


def _call(function: Callable[..., typing.Any],
          *args: typing.Any) -> typing.Any:
    return function(*args)


class Definitions:
    """The record in one pool.

    Each method raises RecordError if it cannot be read or written.

    :param ioctx: of the home's namespace
    :param call: calls a function that waits for the cluster, and raises
        ClusterError if that is away
    """

    def __init__(self, store: str, ioctx: rados.Ioctx, deployment: str = '',
                 call: Callable[..., typing.Any] = _call) -> None:
        self._store = store
        self._call = call
        self._ioctx = ioctx
        self._deployment = deployment

    def load(self) -> Recorded:
        """Return what is recorded."""
        found = Recorded()
        holders = []
        with self._explained():
            entries = self._call(_walk, self._ioctx)
        for key, value in entries:
            try:
                if key.startswith(_SITE):
                    found.sites[key[len(_SITE):]] = Definition(_read_options(
                        self._parse(_Options, value)))
                elif key.startswith(_HOLDER):
                    name, host = key[len(_HOLDER):].split('/', 1)
                    holders.append((name, host, self._parse(
                        _Holder, value).seconds))
            except record_format.ForeignRecord:
                continue
            except record_format.OtherRelease as exc:
                name = (key[len(_SITE):] if key.startswith(_SITE)
                        else key.split('/')[1])
                found.of_other_release[name] = 'record %s in object %s: %s' % (
                    key, OBJECT, exc)
            except ValueError:
                LOG.warning('Entry %r of the record of sites cannot be '
                            'understood and is left aside', key)
        for name, host, seconds in holders:
            if name in found.sites:
                found.sites[name].holders[host] = seconds
        return found

    def save(self, name: str, options: Mapping[str, str]) -> None:
        """Record a site."""
        self._set(_SITE + name, _Options({
            option: json.dumps(str(value))
            for option, value in options.items()}))

    def hold(self, name: str, host: str, seconds: float) -> None:
        """Note that a host has the file of a site.

        :param seconds: since the epoch
        """
        self._set('%s%s/%s' % (_HOLDER, name, host), _Holder(float(seconds)))

    def release(self, name: str, host: str) -> None:
        """Note that a host has it no more."""
        self._remove('%s%s/%s' % (_HOLDER, name, host))

    def forget(self, name: str, hosts: Iterable[str] = ()) -> None:
        """Remove a site, and the notes of hosts about it."""
        self._remove(_SITE + name, *('%s%s/%s' % (_HOLDER, name, host)
                                     for host in hosts))

    def _parse(self, kind: type[_Record], text: str) -> _Record:
        return record_format.load(kind, text, self._deployment)

    def _set(self, key: str, record: _Options | _Holder) -> None:
        with self._explained():
            self._call(omap.put, self._ioctx, OBJECT, {
                key: record_format.dump(record, self._deployment)})

    def _remove(self, *keys: str) -> None:
        with self._explained():
            for key in keys:
                self._call(omap.remove, self._ioctx, OBJECT, key)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (omap.Error, UnicodeDecodeError) as exc:
            raise RecordError(self._store, exc) from exc


def _walk(ioctx: rados.Ioctx) -> list[tuple[str, str]]:
    return list(omap.walk(ioctx, OBJECT))


def _read_options(record: _Options) -> dict[str, str]:
    """Return the options of a site by name.

    :raises ValueError: if a value is no JSON string
    """
    found = {name: json.loads(text) for name, text in record.options.items()}
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError('an option is no text')
    return found
