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

"""What a client can send to those that have an image open."""

import ctypes
import struct

_librados = ctypes.CDLL('librados.so.2')
_librados.rados_get_instance_id.restype = ctypes.c_uint64
# NotifyOp of librbd: NOTIFY_OP_HEADER_UPDATE, NOTIFY_OP_RESIZE.
_HEADER_UPDATE, _RESIZE = 3, 7
# Milliseconds for those that are asked to answer.
_PATIENCE = 5000


class Notifier:
    """A client that asks for changes of an image instead of making them.

    python3-rados takes text alone for a message.

    :param conf: path of the conf file
    :param keyring: path of the keyring
    :param user: with ``client.``
    :param pool: name of the pool
    """

    def __init__(self, conf, keyring, user, pool='images'):
        self._cluster, self._ioctx = ctypes.c_void_p(), ctypes.c_void_p()
        for code in (
                _librados.rados_create2(
                    ctypes.byref(self._cluster), b'ceph', user.encode(),
                    ctypes.c_uint64(0)),
                _librados.rados_conf_read_file(self._cluster,
                                               str(conf).encode()),
                _librados.rados_conf_set(self._cluster, b'keyring',
                                         str(keyring).encode()),
                _librados.rados_connect(self._cluster),
                _librados.rados_ioctx_create(self._cluster, pool.encode(),
                                             ctypes.byref(self._ioctx))):
            if code < 0:
                raise OSError(-code, 'librados')
        self._requests = 0

    def close(self):
        """Give the connection back."""
        _librados.rados_ioctx_destroy(self._ioctx)
        _librados.rados_shutdown(self._cluster)

    def ask_for_size(self, image_id, size):
        """Ask whoever has the lock of an image to resize it.

        :returns: what librados returns, negative for an error
        """
        self._requests += 1
        return self._notify(image_id, struct.pack(
            '<IQQQQ?', _RESIZE, size,
            _librados.rados_get_instance_id(self._cluster), 1,
            self._requests, True))

    def tell_of_header(self, image_id):
        """Tell those that have an image open that its header has changed.

        :returns: what librados returns, negative for an error
        """
        return self._notify(image_id, struct.pack('<I', _HEADER_UPDATE))

    def _notify(self, image_id, body):
        message = struct.pack('<BBI', 6, 1, len(body)) + body
        reply, length = ctypes.c_void_p(), ctypes.c_size_t()
        code = _librados.rados_notify2(
            self._ioctx, b'rbd_header.' + image_id.encode(), message,
            len(message), ctypes.c_uint64(_PATIENCE), ctypes.byref(reply),
            ctypes.byref(length))
        if reply:
            _librados.rados_buffer_free(reply)
        return code
