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

"""A registry without a cluster."""

import types

from glance_dcn.ceph import errors
from glance_dcn.sites import home
from glance_dcn.workers import registry


class Site:
    """A site that may be away."""

    name = 'central'
    available = True
    connection = types.SimpleNamespace(connected_fsid='f')


class Registry:
    """What :class:`glance_dcn.workers.registry.Registry` does, in memory.

    Several workers share it.

    :ivar records: texts by name of the worker
    :ivar figures: lists of what was written with each heartbeat, by the same
    :ivar journals: dicts of entries by task, by name of the worker
    :ivar unreadable: why records are left alone, by their keys
    :ivar holders: who has the right to act, by name of the worker
    """

    def __init__(self):
        self.home = home.Home(Site())
        self.deployment = 'ours'
        self.records = {}
        self.figures = {}
        self.journals = {}
        self.holders = {}
        self.unreadable = {}
        self.reachable = True

    @property
    def site(self):
        return self.home.site

    def workers(self):
        self._reach()
        return [(registry.parse(text, 'ours'), text)
                for _key, text in sorted(self.records.items())]

    def worker(self, identity):
        self._reach()
        text = self.records.get(identity)
        try:
            return text and registry.parse(text, 'ours'), text
        except ValueError:
            return None, text

    def replace(self, before, worker, figures=()):
        self._reach()
        if self.records.get(worker.identity) != before:
            return False
        self.records[worker.identity] = worker.text('ours')
        self.figures.setdefault(worker.identity, []).append(list(figures))
        return True

    def remove(self, worker, text):
        self._reach()
        if self.records.get(worker.identity) == text:
            del self.records[worker.identity]

    def scan(self):
        return registry.Scan(
            [worker for worker, _text in self.workers()],
            {identity: self.tasks(identity) for identity in self.journals},
            dict(self.unreadable))

    def journal_of(self, identity):
        return self.tasks(identity), {
            key.rpartition('/')[2] for key in self.unreadable
            if key.startswith('task/%s/' % identity)}

    def tasks(self, identity):
        self._reach()
        return list(self.journals.get(identity, {}).values())

    def note(self, identity, entry):
        self._reach()
        self.journals.setdefault(identity, {})[entry.task] = entry

    note_later = note

    def forget(self, identity, task):
        self._reach()
        self.journals.get(identity, {}).pop(task, None)
        self.unreadable.pop('task/%s/%s' % (identity, task), None)

    def hold(self, identity, holder, seconds):
        self._reach()
        return self.holders.setdefault(identity, holder) == holder

    def release(self, identity, holder):
        if self.holders.get(identity) == holder:
            del self.holders[identity]

    def _reach(self):
        if not self.reachable:
            raise errors.Unreachable('central', 'it is away', 'wait')
