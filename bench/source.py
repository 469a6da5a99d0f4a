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

"""The images that are measured: scattered data that cannot be compressed.

The same seed gives the same bytes on every machine.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import pathlib
import random
import threading

from lab import process

BLOCK = 64 << 10
_STEP = 1 << 20


@dataclasses.dataclass
class Source:
    """An image.

    :param raw: path of the image as a sparse raw file
    :param qcow2: path of the same as qcow2
    :param size: virtual size in bytes
    :param extents: list of (offset, length) in bytes: where its data is
    :param checksum: md5 of the raw image, in hex
    :param hash_value: sha512 of the raw image, in hex
    """

    raw: pathlib.Path
    qcow2: pathlib.Path
    size: int
    extents: list
    checksum: str = ''
    hash_value: str = ''

    @property
    def data(self):
        """Bytes of data."""
        return sum(length for _offset, length in self.extents)


def extents(size, share, fragment, seed):
    """Scatter data over an image.

    Offsets and lengths are multiples of 64 KiB; lengths are between 64 KiB
    and twice the mean; no two extents touch, unless all is data.

    :param size: bytes of the image
    :param share: share of it that is data, in (0, 1]
    :param fragment: mean length in bytes
    :param seed: seed of the pseudo-random numbers
    :returns: list of (offset, length), in order
    """
    blocks = size // BLOCK
    wanted = max(1, round(blocks * share))
    if wanted >= blocks:
        return [(0, size)]
    chance = random.Random(seed)
    most = max(1, 2 * fragment // BLOCK - 1)
    lengths = []
    while sum(lengths) < wanted:
        lengths.append(min(chance.randint(1, most), wanted - sum(lengths)))
    # Every gap but the first and the last must be there.
    while len(lengths) - 1 > blocks - wanted:
        lengths[0] += lengths.pop()
    spare = blocks - wanted - (len(lengths) - 1)
    places = sorted(chance.randint(0, spare) for _length in lengths)
    result, before = [], 0
    for number, (place, length) in enumerate(zip(places, lengths)):
        result.append(((place + number + before) * BLOCK, length * BLOCK))
        before += length
    return result


def make(folder, name, size, share, fragment, seed):
    """Make an image in both formats.

    :param folder: where the files are put
    :param name: of the files, without suffix
    :returns: :class:`Source`, without its hashes
    """
    folder = pathlib.Path(folder)
    result = Source(folder / ('%s.raw' % name), folder / ('%s.qcow2' % name),
                    size, extents(size, share, fragment, seed))
    chance = random.Random(seed)
    with result.raw.open('wb') as raw:
        raw.truncate(size)
        for offset, length in result.extents:
            raw.seek(offset)
            for step in range(0, length, _STEP):
                raw.write(chance.randbytes(min(_STEP, length - step)))
    process.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-m', '8',
                 '-W', result.raw, result.qcow2], timeout=3600)
    return result


def hashes(source):
    """Compute md5 and sha512 of an image in two threads, and keep them.

    Nothing but hashing is done: zeros come from one small buffer.
    """
    found = {}

    def compute(name):
        digest = hashlib.new(name, usedforsecurity=False)
        for piece in _pieces(source):
            digest.update(piece)
        found[name] = digest.hexdigest()

    threads = [threading.Thread(target=compute, args=(name,))
               for name in ('md5', 'sha512')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.checksum, source.hash_value = found['md5'], found['sha512']


def _pieces(source):
    zeros = bytes(_STEP)
    at = 0
    with source.raw.open('rb') as raw:
        for offset, length in [*source.extents, (source.size, 0)]:
            while at < offset:
                piece = zeros[:offset - at]
                yield piece
                at += len(piece)
            raw.seek(offset)
            while at < offset + length:
                piece = raw.read(min(_STEP, offset + length - at))
                yield piece
                at += len(piece)


class _Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self):
        path = self.server.folder / pathlib.Path(self.path).name
        with path.open('rb') as f:
            self.send_response(200)
            self.send_header('Content-Type', 'application/octet-stream')
            self.send_header('Content-Length', os.fstat(f.fileno()).st_size)
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(f)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder's files over HTTP.

    :returns: context manager that gives the URL of the folder
    """
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.folder = pathlib.Path(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield 'http://127.0.0.1:%d' % server.server_port
    finally:
        server.shutdown()
        server.server_close()
