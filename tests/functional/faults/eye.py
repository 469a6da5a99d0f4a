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

"""Looks at an RBD image of a site until it has come to a certain point.

Run as a program at the site itself, in its network namespace::

    python -m tests.functional.faults.eye CONF KEYRING IMAGE POINT...

so that it sees what happens there at once, and goes on seeing it, however
slow the link is or when it is cut. It reads the objects that the image
consists of, for it must not open it, and so get into its way.

It prints ``looking``, and then each point when it is reached.
"""

import struct
import sys
import time

import rados

_PAUSE = .003


def no_image(ioctx, name):
    """There is none, or no more."""
    return not _identity(ioctx, name)


def created(ioctx, name):
    """It has been created."""
    return bool(_header(ioctx, name))


def data(ioctx, name):
    """Data has been written."""
    header = _header(ioctx, name)
    return bool(header) and _length(
        ioctx, '%s.%016x' % (header['object_prefix'][4:].decode(), 0)) > 0


def written(ioctx, name):
    """All its data is there, of an image without holes."""
    header = _header(ioctx, name)
    if not header:
        return False
    size, = struct.unpack('<Q', header['size'])
    length = 1 << header['order'][0]
    prefix = header['object_prefix'][4:].decode()
    return all(
        _length(ioctx, '%s.%016x' % (prefix, number))
        == min(length, size - number * length)
        for number in range(-(-size // length)))


def snapshot(ioctx, name):
    """It has a snapshot."""
    return any(key.startswith('snapshot_') for key in _header(ioctx, name))


def no_snapshot(ioctx, name):
    """It has none, or no more."""
    header = _header(ioctx, name)
    return bool(header) and not any(
        key.startswith('snapshot_') for key in header)


#: What can be waited for.
POINTS = {function.__name__.replace('_', '-'): function for function in (
    no_image, created, data, written, snapshot, no_snapshot)}


def _identity(ioctx, name):
    """Return the internal ID of an image, or ''."""
    try:
        # After its length, in four bytes.
        return ioctx.read('rbd_id.' + name)[4:].decode()
    except rados.ObjectNotFound:
        return ''


def _header(ioctx, name):
    """Return the header of an image as a dict, empty if there is none."""
    identity = _identity(ioctx, name)
    if not identity:
        return {}
    try:
        with rados.ReadOpCtx() as op:
            found, _code = ioctx.get_omap_vals(op, '', '', 1000)
            ioctx.operate_read_op(op, 'rbd_header.' + identity)
            return dict(found)
    except rados.ObjectNotFound:
        return {}


def _length(ioctx, key):
    """Return the bytes of an object, 0 if there is none."""
    try:
        return ioctx.stat(key)[0]
    except rados.ObjectNotFound:
        return 0


def main(conf, keyring, name, *points):
    """See the module."""
    with rados.Rados(conffile=conf, rados_id='openstack',
                     conf={'keyring': keyring}) as client, \
            client.open_ioctx('images') as ioctx:
        print('looking', flush=True)
        for point in points:
            while not POINTS[point](ioctx, name):
                time.sleep(_PAUSE)
            print(point, flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
