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

"""Runs checks: all subjects at once, and within a time.

A request to a cluster that hangs cannot be taken back: librados waits for as
long as it was told to. Each subject therefore has a thread of its own, some at
a time, which is left alone when the time is over.
"""

from __future__ import annotations

import contextlib
import functools
import time
import typing

from glance_dcn.checks import clusters  # noqa: F401
from glance_dcn.checks import nodes  # noqa: F401
from glance_dcn.checks import processes  # noqa: F401
from glance_dcn.checks import records  # noqa: F401
from glance_dcn.checks import registry
from glance_dcn.checks import spelling  # noqa: F401
from glance_dcn.checks import subjects
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.runtime import scheduler as schedulers

if typing.TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping

# Subjects at a time: each site takes a client, which has a dozen threads.
_AT_ONCE = schedulers.Limit('check', 24)
# Seconds that threads have for removing what they made, when all is over.
_CLEAN_UP = 5
_SCOPES = {subjects.Site: registry.SITE, subjects.Node: registry.NODE,
           subjects.Glance: registry.GLANCE}


def run(things: list[subjects.Subject], timeout: float,
        only: Iterable[str] = (),
        checks: Mapping[str, registry.Check] = registry.CHECKS
        ) -> list[registry.Finding]:
    """Run all checks.

    :param timeout: seconds after which a check is late
    :param only: names of checks whose outcome is wanted; none: all
    :param checks: all that there are, by name
    :returns: with those of others that failed, without which a wanted one
        could not run
    """
    run = _Run(things, only, checks)
    try:
        run.wait(timeout)
    finally:
        # Also at Ctrl-C.
        run.end()
    return run.findings(timeout)


def idle(things: list[subjects.Subject],
         names: Iterable[str]) -> list[registry.Check]:
    """Return those of some checks that have no subject."""
    scopes = {_SCOPES[type(thing)] for thing in things}
    if registry.SITE in scopes:
        scopes.add(registry.ALL)
    return [registry.CHECKS[name] for name in names
            if registry.CHECKS[name].scope not in scopes]


class _Run:
    """One run over all subjects."""

    def __init__(self, things: list[subjects.Subject],
                 only: Iterable[str],
                 known: Mapping[str, registry.Check]) -> None:
        self._things = things
        self._known = known
        self._only = set(only)
        self._wanted = self._needed()
        # Filled in by the threads, by number of the subject.
        self._done: dict[int, list[registry.Finding]] = {
            number: [] for number in range(len(things))}
        self._queue: native.Queue[int] = native.Queue()
        self._left = set(self._done)
        for number, thing in enumerate(things):
            process.get(schedulers.Scheduler).submit(
                functools.partial(self._run_checks, number, thing), _AT_ONCE)

    def _needed(self) -> set[str]:
        """Return the names of the checks to run."""
        names = set(self._only) or set(self._known)
        if 'own-pool' in names:
            names.add('pool')
        while True:
            more = names.union(*(self._known[name].needs for name in names))
            if more == names:
                return names
            names = more

    def _checks(self, thing: subjects.Subject) -> list[registry.Check]:
        return [check for check
                in registry.of(_SCOPES[type(thing)], self._known)
                if check.name in self._wanted]

    def _run_checks(self, number: int, thing: subjects.Subject) -> None:
        found = self._done[number]
        failed: dict[str, str] = {}
        try:
            for check in self._checks(thing):
                if thing.stopped:
                    break
                why = [name for name in check.needs if name in failed]
                if why:
                    # What that one lacked, this one lacks as well.
                    failed[check.name] = failed[why[0]]
                    found.append(check.skipped(
                        thing, 'not possible, see %s' % failed[check.name]))
                    continue
                finding = check.run(thing)
                if finding.level == registry.FAIL:
                    failed[check.name] = check.name
                found.append(finding)
        finally:
            self._queue.put(number)

    def wait(self, timeout: float) -> None:
        """Wait for the threads, at most for some seconds."""
        self._discard_ended(self._left, timeout)

    def end(self) -> None:
        """Tell threads to end, and let them clean up."""
        for number in self._left:
            self._things[number].stopped = True
        # Only those have anything to clean up that had come to a pool.
        busy = {number for number in self._left
                if getattr(self._things[number], 'ioctx', None)}
        self._discard_ended(busy, _CLEAN_UP)

    def _discard_ended(self, running: set[int], timeout: float) -> None:
        """Wait until none of some subjects is left, or the time is over."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(native.Empty):
            while running:
                running.discard(native.get(
                    self._queue, max(deadline - time.monotonic(), 0)))

    def findings(self, timeout: float) -> list[registry.Finding]:
        """Return all that was found."""
        result = []
        for number, thing in enumerate(self._things):
            found = list(self._done[number])
            rest = self._checks(thing)[len(found):]
            if number in self._left and rest:
                found.append(rest[0].late(thing, timeout))
                found += [check.skipped(thing, 'not possible, see %s'
                                        % rest[0].name)
                          for check in rest[1:]]
            result += found
        result += self._compare()
        # Those of one thing together, in the order of the things.
        order = {thing.name: number
                 for number, thing in reversed(list(enumerate(self._things)))}
        result.sort(key=lambda finding: order[finding.site])
        return [finding for finding in result
                if not self._only or finding.check in self._only
                or finding.level == registry.FAIL]

    def _compare(self) -> list[registry.Finding]:
        """Run the checks of all clusters together."""
        sites = [thing for thing in self._things
                 if isinstance(thing, subjects.Site)]
        kept = next((site.kept for site in sites if site.kept), None) or {}
        return [check.run(subjects.Sites(
            site, [other for other in sites[:number] if other.fsid],
            kept.get(site.name)))
            for check in registry.of(registry.ALL, self._known)
            if check.name in self._wanted
            for number, site in enumerate(sites) if site.ioctx and site.fsid]
