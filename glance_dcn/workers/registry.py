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

"""The Glance workers of a site, and what they are doing, for each other.

Each worker has a record at its home, in the cluster of its default store,
where its peers, the other workers with the same default store, find it. It
counts up in it every few seconds. Clocks of hosts differ, so that no times are
compared: a peer reads whether the count has changed since it read it last.

A record is only ever written over the text that its writer knows. So a
worker whose work was taken over by a peer, because it was silent for too
long, finds that out when it writes again; and a peer cannot take over from
one that has written a heartbeat meanwhile.

Beside it stands a copy of the worker's journal (see
:mod:`glance_dcn.imports.journal`), from which a peer knows what it was doing;
and for each site the figures of the worker's processes, for ``glance-dcn
metrics``. Those that have changed are written with a heartbeat, in the same
operation.
"""

from __future__ import annotations

from collections import abc
import dataclasses
import logging
import re
import time
import typing
import urllib.parse

from glance_dcn.ceph import omap
from glance_dcn.ceph import record_format
from glance_dcn.imports import journal
from glance_dcn.sites import figures as figures_
from glance_dcn.sites import home as homes
from glance_dcn.sites import site as sites

if typing.TYPE_CHECKING:
    import rados

LOG = logging.getLogger(__name__)

_T = typing.TypeVar('_T')

#: Name of the object with the records.
OBJECT = 'workers'
#: Name of the object whose lock those have who act for a worker that is
#: silent, or that has just come back; the worker's name follows.
ACTING = 'worker.'

#: States of a self reference.
RIGHT, WRONG, UNPROVED, UNCHECKED = 'right', 'wrong', 'unproved', 'unchecked'

#: Seconds without a heartbeat after which a worker is shown as silent: some of
#: them, and clocks of hosts differ by some.
SILENT = 60

_LOCK = 'acting'
_WORKER, _TASK, _FIGURES = 'worker/', 'task/', 'figures/'
_NAME = re.compile(r'[^/\x00-\x1f]{1,100}')


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker.

    :ivar identity: its UUID, see :mod:`glance_dcn.workers.identity`
    :ivar site: its default store
    :ivar staging: path of its staging folder at the host
    :ivar instance_id: differs after each start of who writes its heartbeats
    :ivar beat: a count that goes up
    :ivar since: when that one began, seconds since the epoch by its clock
    :ivar seen: time of its last heartbeat, by its clock
    :ivar reference: RIGHT, WRONG, UNPROVED or UNCHECKED
    :ivar faults: what is wrong with its self reference, or why it is unproved
    :ivar taken_by: UUID of the worker that has taken over its work
    """

    identity: str
    site: str
    url: typing.Optional[str] = None
    host: str = ''
    staging: str = ''
    release: str = ''
    instance_id: str = ''
    beat: int = 0
    since: float = 0
    seen: float = dataclasses.field(default_factory=time.time)
    reference: str = UNCHECKED
    faults: tuple[str, ...] = ()
    taken_by: typing.Optional[str] = None

    @property
    def key(self) -> str:
        """Key of the record."""
        return _WORKER + self.identity

    @property
    def is_silent(self) -> bool:
        """Whether it has not been seen lately, by the clock of this host."""
        return time.time() - self.seen >= SILENT

    def text(self, deployment: str = '') -> str:
        """Return the record as it is kept."""
        return record_format.dump(self, deployment)


def parse(text: str, deployment: str = '') -> Worker:
    """Return the worker that a text stands for.

    :raises ValueError: if it cannot be understood, or is of another
    """
    worker = record_format.load(Worker, text, deployment)
    if not _NAME.fullmatch(worker.identity):
        raise record_format.RecordError('its identity is not a name')
    return worker


@dataclasses.dataclass
class Scan:
    """What was in the object at about one moment.

    :ivar workers: in the order of their names
    :ivar tasks: what each worker was doing, by its identity
    :ivar unreadable: why records are left alone, by their keys
    """

    workers: list[Worker] = dataclasses.field(default_factory=list)
    tasks: dict[str, list[journal.Entry]] = dataclasses.field(
        default_factory=dict)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


class Registry:
    """The records of one home; those of other deployments are left out.

    Everything raises :class:`glance_dcn.ceph.errors.ClusterError` if the site
    is away, and :class:`glance_dcn.ceph.omap.Error` if the cluster refuses.
    """

    def __init__(self, home: homes.Home, deployment: str = '') -> None:
        self.home = home
        self.deployment = deployment
        self._told: set[str] = set()

    @property
    def site(self) -> sites.Site:
        """The site that has the records."""
        assert self.home.site is not None, 'it is configured before it is used'
        return self.home.site

    def workers(self) -> list[tuple[Worker, str]]:
        """Return (worker, text as it is kept), in the order of names."""
        return self._all(self._parse_worker, _WORKER)

    def _parse_worker(self, key: str, text: str) -> Worker:
        worker = parse(text, self.deployment)
        _check_key(key, worker.key)
        return worker

    def worker(self, identity: str) -> tuple[Worker | None, str | None]:
        """Return a worker and its text, or Nones; None if not understood.

        The text is that of another release, or damaged, then.
        """
        text = self.home.run(omap.get, OBJECT, _WORKER + identity,
                             fence=False)
        try:
            return parse(text, self.deployment) if text else None, text
        except ValueError:
            return None, text

    def replace(self, before: str | None, worker: Worker,
                figures: abc.Iterable[figures_.Figures] = ()) -> bool:
        """Write a worker if its text is as before; return whether it was.

        :param figures: those of its sites, which are written with it
        """
        return self.home.run(
            omap.swap, OBJECT, worker.key, before,
            worker.text(self.deployment),
            {_figures_key(worker.identity, one.site): record_format.dump(
                one, self.deployment) for one in figures})

    def figures(self) -> dict[str, list[figures_.Figures]]:
        """Return the figures of all workers by identity, one of each site."""
        found: dict[str, list[figures_.Figures]] = {}
        for (identity, one), _text in self._all(self._parse_figures,
                                                _FIGURES):
            found.setdefault(identity, []).append(one)
        return found

    def _parse_figures(self, key: str,
                       text: str) -> tuple[str, figures_.Figures]:
        one = record_format.load(figures_.Figures, text, self.deployment)
        identity = key[len(_FIGURES):].partition('/')[0]
        _check_key(key, _figures_key(identity, one.site))
        return identity, one

    def remove(self, worker: Worker, text: str) -> None:
        """Remove the record of a worker, unless its text has changed."""
        self.home.run(_remove, worker, text)

    def tasks(self, identity: str) -> list[journal.Entry]:
        """Return what a worker was doing."""
        return [entry for entry, _text in self._all(
            self._parse_task, _task_key(identity, ''))]

    def _parse_task(self, key: str, text: str) -> journal.Entry:
        return journal.parse(text)

    def journal_of(self, identity: str
                   ) -> tuple[list[journal.Entry], set[str]]:
        """Return what a worker was doing, and IDs of unreadable tasks."""
        found = self._scan(_task_key(identity, ''))
        return (found.tasks.get(identity, []),
                {key.rpartition('/')[2] for key in found.unreadable})

    def scan(self) -> Scan:
        """Return what is recorded, but for figures; log nothing."""
        return self._scan('')

    def _scan(self, prefix: str) -> Scan:
        found = Scan()
        for key, text in self._texts(prefix):
            try:
                if key.startswith(_WORKER):
                    found.workers.append(self._parse_worker(key, text))
                elif key.startswith(_TASK):
                    found.tasks.setdefault(key.split('/')[1], []).append(
                        self._parse_task(key, text))
                elif key.startswith(_FIGURES):
                    self._parse_figures(key, text)
            except record_format.ForeignRecord:
                continue
            except ValueError as exc:
                found.unreadable[key] = str(exc)
        return found

    def note(self, identity: str, entry: journal.Entry) -> None:
        """Write down what a worker does, over what was known of the task."""
        self.home.run(omap.put, OBJECT,
                      {_task_key(identity, entry.task): entry.text()})

    def note_later(self, identity: str, entry: journal.Entry) -> None:
        """Do the same without waiting; a failure is not reported."""
        with self.home.open() as ioctx:
            omap.put_later(ioctx, OBJECT,
                           {_task_key(identity, entry.task): entry.text()})

    def forget(self, identity: str, task: str) -> None:
        """Remove the record of a task."""
        self.home.run(omap.remove, OBJECT, _task_key(identity, task))

    def hold(self, identity: str, holder: str, seconds: float) -> bool:
        """Take or renew, for seconds, the right to act for a worker.

        :returns: whether the holder has it
        """
        return self.home.run(omap.lock, ACTING + identity, _LOCK, holder,
                             seconds)

    def release(self, identity: str, holder: str) -> None:
        """Give the right to act for a worker back."""
        self.home.run(omap.unlock, ACTING + identity, _LOCK, holder)

    def _all(self, understand: abc.Callable[[str, str], _T], prefix: str
             ) -> list[tuple[_T, str]]:
        """Return what is understood, with its text; log what is not."""
        found = []
        for key, text in self._texts(prefix):
            try:
                found.append((understand(key, text), text))
            except record_format.ForeignRecord:
                continue
            except ValueError as exc:
                LOG.log(logging.DEBUG if key in self._told
                        else logging.WARNING,
                        'Store %(store)s: record %(key)s of object '
                        '%(object)s is unreadable and is left alone: '
                        '%(error)s',
                        {'store': self.home.name, 'key': key,
                         'object': OBJECT, 'error': exc})
                self._told.add(key)
        return found

    def _texts(self, prefix: str) -> list[tuple[str, str]]:
        return self.home.run(lambda ioctx: list(omap.walk(
            ioctx, OBJECT, prefix)), fence=False)


def _remove(ioctx: rados.Ioctx, worker: Worker, text: str) -> None:
    if omap.remove(ioctx, OBJECT, worker.key, text):
        for key, _text in omap.walk(ioctx, OBJECT,
                                    _figures_key(worker.identity, '')):
            omap.remove(ioctx, OBJECT, key)
        omap.remove_object(ioctx, ACTING + worker.identity)


def _check_key(key: str, expected: str) -> None:
    if key != expected:
        raise record_format.RecordError('its key is that of another record')


def _figures_key(identity: str, site: str) -> str:
    return '%s%s/%s' % (_FIGURES, identity,
                        urllib.parse.quote(site, safe=''))


def _task_key(identity: str, task: str) -> str:
    return '%s%s/%s' % (_TASK, identity, task)
