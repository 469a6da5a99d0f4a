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

"""Sites that are not there: conf files whose monitors do not answer."""

import contextlib
import dataclasses
import pathlib
import shutil
import socket
import uuid

_CONF = """\
[global]
fsid = %(fsid)s
mon_host = v2:%(address)s:%(port)d

[client.glance]
keyring = %(keyring)s
"""


@dataclasses.dataclass(frozen=True)
class Fake:
    """A site that is not there; :func:`lab.glance.rbd_store` takes it.

    :ivar name: of the site
    :ivar conf: path of the conf file
    """

    name: str
    conf: pathlib.Path


@contextlib.contextmanager
def unreachable(folder, count, keyring):
    """Make sites whose monitors are away, in turn in three ways.

    At the first nobody listens; the second takes connections and says
    nothing, as a hung host does; packets to the third are lost on the way, or
    refused by whoever routes.

    :param folder: where the conf files are put
    :param count: how many
    :param keyring: path of a keyring to copy: its key fits none of them
    :returns: context manager that gives a dict of :class:`Fake` by name
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        closed = stack.enter_context(socket.socket())
        # Bound, but not listening: nobody else can get it.
        closed.bind(('127.0.0.1', 0))
        silent = stack.enter_context(socket.socket())
        silent.bind(('127.0.0.1', 0))
        silent.listen(1000)
        places = [closed.getsockname(), silent.getsockname(),
                  ('10.255.255.1', 3300)]
        found = {}
        for number in range(count):
            name = 'away%d' % number
            address, port = places[number % len(places)]
            own = folder / ('%s.client.glance.keyring' % name)
            shutil.copy(keyring, own)
            conf = folder / ('%s.conf' % name)
            conf.write_text(_CONF % {
                'fsid': uuid.uuid4(), 'address': address, 'port': port,
                'keyring': own})
            found[name] = Fake(name, conf)
        yield found
