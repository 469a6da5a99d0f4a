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

"""A plain TCP stream. Run as a file, it is the end that receives."""

import socket
import sys

_CHUNK = 1 << 20


def send(address, port, size):
    """Send bytes, and return when the other end has them all.

    :param size: number of bytes
    :raises OSError: when it has not
    """
    piece = memoryview(bytes(_CHUNK))
    with socket.create_connection((address, port), timeout=600) as sock:
        left = size
        while left:
            left -= sock.send(piece[:min(left, _CHUNK)])
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile('rb') as answer:
            received = int(answer.read() or 0)
    if received != size:
        raise OSError('%d of %d bytes arrived' % (received, size))


def receive(address):
    """Print the port, take one connection, and tell it how much came."""
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        sock, _peer = server.accept()
    buffer, total = bytearray(_CHUNK), 0
    with sock:
        while True:
            length = sock.recv_into(buffer)
            if not length:
                break
            total += length
        sock.sendall(b'%d' % total)


if __name__ == '__main__':
    receive(sys.argv[1])
