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

"""Records at which processes have ended.

librbd ends the process if the header of an image is damaged in certain ways.
Then the next leader would try the same record, and end as well, and nothing
else would be done at this host. So the leader leaves in the host's folder
which records it is trying at each moment. Its successor tries those that were
left alone, one at a time, when nothing else is being tried; and those at which
several processes have ended ever later, with all others of their site: who
writes such a header writes more.
"""

from __future__ import annotations

import json
import logging
import typing

from glance_dcn.runtime import native

if typing.TYPE_CHECKING:
    from collections.abc import Collection

    from glance_dcn.runtime import lead as leads

LOG = logging.getLogger(__name__)

_NAME = 'trying'
# Records that are kept.
_MOST = 1000
# Seconds until a record is tried at which so many processes have ended: the
# first one may have been restarted by its operator.
_PAUSE = {0: 0, 1: 0, 2: 120, 3: 600}
_LONGEST = 3600


class Crashes:
    """What the leaders of this host were trying when they ended."""

    def __init__(self, lead: leads.Lead) -> None:
        self._lead = lead
        self._lock = native.lock()
        self._term: object = None
        self._trying: set[str] = set()
        # How many processes have ended, by key and by site.
        self._ended: dict[str, int] = {}
        self._sites: dict[str, int] = {}

    def take_over(self) -> None:
        """Read what the former leader was trying, if there is a new one."""
        term = self._lead.term
        if term is None or term == self._term:
            return
        text = self._lead.published(_NAME)
        with self._lock:
            self._term = term
            # None: what this process wrote is what is there.
            if text is None:
                return
            former = _parse(text)
            self._ended, self._sites = former['ended'], former['sites']
            # This process lives, whoever else led meanwhile.
            tried = set(former['trying']) - self._trying
            for site in set(map(_site, tried)):
                self._sites[site] = self._sites.get(site, 0) + 1
            for key in sorted(tried):
                self._ended[key] = self._ended.get(key, 0) + 1
                if self._ended[key] > 1:
                    LOG.error('%(count)d processes in a row have ended while '
                              'they tried record %(key)s: it is tried again '
                              'in %(pause)d s. See which image it is about '
                              '(glance-dcn task list), and what is wrong '
                              'with it at its site', {
                                  'count': self._ended[key], 'key': key,
                                  'pause': self.pause(key)})

    def begin(self, key: str) -> None:
        """Note that a record is going to be tried."""
        with self._lock:
            self._trying.add(key)
            self._write()

    def end(self, key: str, over: bool) -> None:
        """Note that a record has been tried, and the process lives.

        :param over: whether it need not be tried again
        """
        with self._lock:
            self._trying.discard(key)
            if over:
                self._ended.pop(key, None)
            self._write()

    def forget(self, keys: Collection[str]) -> None:
        """Forget all records but some, which are still there."""
        with self._lock:
            self._ended = {key: count for key, count in self._ended.items()
                           if key in keys}
            left = set(map(_site, self._ended))
            self._sites = {site: count for site, count in self._sites.items()
                           if site in left}

    def is_suspect(self, key: str) -> bool:
        """Return whether a process has ended while it tried a record."""
        return key in self._ended

    def pause(self, key: str) -> float:
        """Return the seconds until a record is to be tried."""
        return _PAUSE.get(max(self._ended.get(key, 0),
                              self._sites.get(_site(key), 0)), _LONGEST)

    def _write(self) -> None:
        # What a former leader still tries is not its successor's to tell.
        if self._term is None or self._lead.term != self._term:
            return
        try:
            self._lead.publish(_NAME, json.dumps({
                'trying': sorted(self._trying), 'ended': self._ended,
                'sites': self._sites}))
        except OSError as exc:
            LOG.debug('Which records are tried cannot be written: %s', exc)


def _parse(text: str | None) -> dict[str, typing.Any]:
    """Return what a former leader has left; what is damaged is nothing."""
    try:
        found = json.loads(text or '{}')
        trying = [str(key) for key in found.get('trying', ())][:_MOST]
        ended, sites = ({
            str(key): int(count) for key, count in list(
                found.get(name, {}).items())[:_MOST]}
            for name in ('ended', 'sites'))
    except (ValueError, TypeError, AttributeError, OverflowError,
            RecursionError):
        trying, ended, sites = [], {}, {}
    return {'trying': trying, 'ended': ended, 'sites': sites}


def _site(key: str) -> str:
    return '/'.join(key.split('/')[:2])
