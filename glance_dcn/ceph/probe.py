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

"""Asking a cluster whether it serves I/O: its monitors and the OSDs of a pool.

That the monitors answer says nothing about the OSDs, which may hang.
"""

from __future__ import annotations

import uuid

import rados

# Objects asked for, so that several placement groups, and with them OSDs,
# have to answer. They need not exist: that they do not is an answer.
_SPREAD = 7
# What every listing and creation of images goes to.
_DIRECTORY = 'rbd_directory'


def ask(ioctx: rados.Ioctx) -> None:
    """Return when the OSDs of a pool have answered.

    :param ioctx: its client's timeout for requests counts
    :raises rados.Error: if one does not
    """
    for name in [_DIRECTORY] + ['glance_dcn.probe.%s' % uuid.uuid4()
                                for _i in range(_SPREAD)]:
        try:
            ioctx.stat(name)
        except rados.ObjectNotFound:
            pass
