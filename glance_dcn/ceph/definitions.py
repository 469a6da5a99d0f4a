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
pool of the default store: ``site/<name>`` has the options of the site's store
as JSON, ``holder/<name>/<host>`` the time at which a host last said that it
has the file of the site. There are no secrets in it.
"""

import contextlib
import dataclasses
import json
import logging

from glance_dcn.ceph import omap

LOG = logging.getLogger(__name__)

#: Name of the RADOS object.
OBJECT = 'glance_dcn.sites'

_SITE = 'site/'
_HOLDER = 'holder/'


class RecordError(Exception):
    """The record cannot be read or written.

    :ivar store: identifier of the store whose pool it is in
    """

    def __init__(self, store, reason):
        super().__init__('the record of sites in the pool of store %s cannot '
                         'be used (%s); see the osd caps of its user'
                         % (store, reason))
        self.store = store


@dataclasses.dataclass
class Definition:
    """A site that is recorded.

    :ivar options: of its store, as text, by name
    :ivar holders: seconds since the epoch, by host that has its file
    """

    options: dict
    holders: dict = dataclasses.field(default_factory=dict)


class Definitions:
    """The record in one pool.

    :param store: identifier of the store whose pool it is
    :param ioctx: rados.Ioctx of the pool
    """

    def __init__(self, store, ioctx):
        self._store = store
        self._ioctx = ioctx

    def load(self):
        """Return a dict of :class:`Definition` by name of the site.

        :raises RecordError: if it cannot be read
        """
        found = {}
        holders = []
        with self._explained():
            entries = list(omap.walk(self._ioctx, OBJECT))
        for key, value in entries:
            try:
                if key.startswith(_SITE):
                    options = json.loads(value)
                    found[key[len(_SITE):]] = Definition({
                        str(name): str(text)
                        for name, text in options.items()})
                elif key.startswith(_HOLDER):
                    name, host = key[len(_HOLDER):].split('/', 1)
                    holders.append((name, host, float(value)))
            except (ValueError, AttributeError):
                LOG.warning('Entry %r of the record of sites cannot be '
                            'understood and is left aside', key)
        for name, host, seconds in holders:
            if name in found:
                found[name].holders[host] = seconds
        return found

    def save(self, name, options):
        """Record a site.

        :param options: dict of text by name
        :raises RecordError: if it cannot be written
        """
        self._set(_SITE + name, json.dumps(options, sort_keys=True))

    def hold(self, name, host, seconds):
        """Note that a host has the file of a site.

        :param seconds: since the epoch
        :raises RecordError: if it cannot be written
        """
        self._set('%s%s/%s' % (_HOLDER, name, host), '%d' % seconds)

    def release(self, name, host):
        """Note that a host has it no more."""
        self._remove('%s%s/%s' % (_HOLDER, name, host))

    def forget(self, name, hosts=()):
        """Remove a site, and the notes of hosts about it.

        :raises RecordError: if it cannot be written
        """
        self._remove(_SITE + name, *('%s%s/%s' % (_HOLDER, name, host)
                                     for host in hosts))

    def _set(self, key, value):
        with self._explained():
            omap.put(self._ioctx, OBJECT, {key: value})

    def _remove(self, *keys):
        with self._explained():
            for key in keys:
                omap.remove(self._ioctx, OBJECT, key)

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except (omap.Error, UnicodeDecodeError) as exc:
            raise RecordError(self._store, exc) from exc
