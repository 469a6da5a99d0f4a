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

"""What a cephx user may do at a cluster, found out without changing anything.

Each question is a request that cannot succeed, whatever the rights of the
user: whether it fails for lack of them, or later, is the answer.
"""

from __future__ import annotations

import errno
import json
import typing
import uuid

import rados

from glance_dcn.ceph import omap

#: What every function of this module raises when there is no answer.
Error = rados.Error

_DENIED = (errno.EPERM, errno.EACCES)
# No client has it: the monitors refuse it as an address, after they have
# looked at the rights of who asks.
_NO_ADDRESS = 'glance-dcn/0'


def may_write(ioctx: rados.Ioctx, timeout: float = omap.TIMEOUT) -> bool:
    """Return whether the user may write in the namespace of an Ioctx.

    :param timeout: seconds to wait for the cluster
    :raises Error: if there is no answer
    """
    return omap.may_write(ioctx, _absent(), timeout)


def may_read(ioctx: rados.Ioctx) -> bool:
    """Return whether the user may read in the namespace of an Ioctx.

    :raises Error: if there is no answer
    """
    try:
        ioctx.stat(_absent())
    except rados.ObjectNotFound:
        pass
    except rados.Error as exc:
        if abs(exc.errno or 0) in _DENIED:
            return False
        raise
    return True


def may_blocklist(client: rados.Rados) -> bool:
    """Return whether the user may cut off other clients of the cluster.

    :raises Error: if there is no answer
    """
    code, _output, status = client.mon_command(json.dumps({
        'prefix': 'osd blocklist', 'blocklistop': 'add',
        'addr': _NO_ADDRESS}), b'')
    if -code in _DENIED:
        return False
    if code in (0, -errno.EINVAL):
        return True
    raise rados.OSError('osd blocklist: %s' % status, errno=-code)


def is_denied(exc: BaseException) -> bool:
    """Return whether an error of librados or librbd tells a lack of rights."""
    code = typing.cast('int | None', getattr(exc, 'errno', None))
    return abs(code or 0) in _DENIED


def _absent() -> str:
    return 'glance_dcn.permission.%s' % uuid.uuid4()
