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

"""Which worker this is, and whether its self reference leads to it.

A worker is all processes that share a staging folder: those of one uWSGI
master, or of one glance-api. Its identity is a UUID in that folder, which
lasts as long as the volume of the folder does: a worker that comes back on
another host with that volume is still the same.

Peers send the import or deletion of what is staged here to the address in
``worker_self_reference_url``, with the path of the request behind it. A wrong
one is found out by a failing import, unless it is checked before: its form,
what others have, and who answers there.

Glance's ``/healthcheck`` is answered by plugins of oslo.middleware, without a
token, by whatever process gets the request. While the worker asks its own
address, all its processes add a secret challenge to that answer; nobody else
knows it. At all other times they add nothing. No configuration names the
plugin: in processes of Glance that have a worker's folder, it wraps each of
those that configurations name.
"""

from __future__ import annotations

from collections import abc
import contextlib
import dataclasses
import os
import re
import secrets
import socket
import tempfile
import time
import typing
import urllib.parse
import uuid

from glance_dcn.imports import folder
from glance_dcn.runtime import process
from glance_dcn.sites import worker_url
from glance_dcn.upstream import plugins
from glance_dcn.workers import registry

if typing.TYPE_CHECKING:
    import requests

OPTION = 'worker_self_reference_url'

# Questions asked, each on a connection of its own: a load balancer gives
# them to several workers.
_QUESTIONS = 4
# Seconds to wait for a connection, and for an answer of a busy worker.
_TIMEOUT = (5, 15)
# Bytes of an answer that are looked at.
_LARGEST = 65536
# Answers of Glance's /healthcheck: well, and disabled by file.
_STATUSES = (200, 503)
_CURE = ('Set it to an address of this worker alone, such as '
         'http://%s:9292')
_IDENTITY = 'identity'
_CHALLENGE = 'challenge'
# Seconds after which a challenge has no effect.
_PATIENCE = 120
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_MARK = 'glance-dcn '


@dataclasses.dataclass
class _Healthcheck:
    """What is added to the healthchecks of this process.

    :ivar is_loaded: whether Glance has loaded the plugin
    """

    identity: WorkerIdentity | None = None
    is_loaded: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is known of a self reference.

    :ivar state: RIGHT, WRONG or UNPROVED of the registry
    :ivar passing: whether it may become right, as while the worker starts
    """

    state: str
    faults: list[str]
    passing: bool = False


def judge(url: str | None, public: str | None, identity: WorkerIdentity,
          others: abc.Iterable[registry.Worker], ask: bool = True,
          timeout: tuple[float, float] = _TIMEOUT) -> Verdict:
    """Check the self reference of this worker.

    :param public: public_endpoint, which Glance takes instead
    :param timeout: seconds to wait for a connection, and for an answer
    """
    cure = _CURE % (socket.getfqdn() or 'HOST')
    if not url:
        return Verdict(registry.WRONG, [_missing(public, cure)])
    fault = worker_url.fault(url)
    if fault:
        return Verdict(registry.WRONG, ['%s %s. %s' % (OPTION, fault, cure)])
    faults = _compare(url, others, cure)
    state, fault, passing = (
        _ask(url, identity, cure, timeout) if ask else
        _unproved(url, 'Glance is patched by eventlet, so that nobody asks'))
    if fault:
        faults.append(fault)
    if faults and state == registry.RIGHT:
        state = registry.WRONG
    # What is wrong with it now does not pass because nobody answers.
    return Verdict(state, faults, passing and len(faults) == 1)


def _missing(public: str | None, cure: str) -> str:
    told = ('Glance tells others public_endpoint, %s, instead, which is no '
            'address of one worker' % public if public else
            'others cannot be told where an image is staged')
    return ('%s is not set: %s. What is staged here cannot be imported or '
            'deleted through other workers. %s' % (OPTION, told, cure))


def _compare(url: str, others: abc.Iterable[registry.Worker], cure: str
             ) -> list[str]:
    faults = []
    twins = [other for other in others
             if other.url and _normal(other.url) == _normal(url)]
    if twins:
        faults.append(
            '%s %s is also that of worker %s at host %s: requests for what is '
            'staged at one reach the other. %s'
            % (OPTION, url, twins[0].identity, twins[0].host, cure))
    here = socket.gethostname()
    strangers = [other for other in others if other.host != here]
    if strangers and _is_loopback(url):
        faults.append(
            '%s %s is an address of the host itself, by which worker %s at '
            'host %s, and others, reach themselves. %s' % (
                OPTION, url, strangers[0].identity, strangers[0].host, cure))
    return faults


def _normal(url: str) -> object:
    """Return what is equal for two addresses of the same server."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {'http': 80, 'https': 443}.get(parts.scheme)
        return parts.hostname, port, parts.path.rstrip('/')
    except ValueError:
        return url


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname
    try:
        return all(worker_url.is_address(
            str(entry[4][0]).partition('%')[0], 'is_loopback')
                   for entry in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def _ask(url: str, identity: WorkerIdentity, cure: str,
         timeout: tuple[float, float]) -> tuple[str, str | None, bool]:
    """Ask an address who is there, as requests of Glance's would reach it.

    No token is sent, no redirection followed.

    :returns: the state, what is wrong or None, and whether that may pass
    """
    import requests
    if not process.get(_Healthcheck).is_loaded:
        return _unproved(url, 'the healthcheck of this worker has no backend, '
                         'or there is none')
    ours = strange = 0
    with identity.challenge() as secret, requests.Session() as session:
        for _ in range(_QUESTIONS):
            try:
                status, text = _question(session, url, timeout)
            except (requests.RequestException, OSError, ValueError) as exc:
                return (registry.WRONG, '%s %s %s. %s' % (
                    OPTION, url, _explain(exc, timeout), cure), True)
            if mark(secret) in text:
                ours += 1
            elif status in _STATUSES:
                strange += 1
            else:
                return _unproved(
                    url, '%s/healthcheck is answered with status %d, which '
                    'is not what Glance answers' % (url, status))
    if strange == 0:
        return registry.RIGHT, None, False
    who = ('other workers as well as this one: it is the address of a load '
           'balancer' if ours else
           'another than this worker: it is the address of that one, or of a '
           'load balancer')
    return (registry.WRONG, '%s %s is answered by %s. %s'
            % (OPTION, url, who, cure), False)


def _question(session: requests.Session, url: str,
              timeout: tuple[float, float]) -> tuple[int, str]:
    with session.get(url + '/healthcheck', timeout=timeout, stream=True,
                     allow_redirects=False, headers={
                         'Accept': 'text/plain',
                         'Connection': 'close'}) as response:
        data = response.raw.read(_LARGEST, decode_content=True)
        return response.status_code, data.decode(errors='replace')


def _unproved(url: str, reason: str) -> tuple[str, str, bool]:
    return (registry.UNPROVED,
            '%s %s could not be proved to lead to this worker: %s. See that '
            'it does, and that the paste configuration of Glance has '
            '/healthcheck, as that of a release has'
            % (OPTION, url, reason), False)


def _explain(exc: Exception, timeout: tuple[float, float]) -> str:
    import requests
    chain: list[BaseException] = []
    found: BaseException | None = exc
    while found is not None and found not in chain:
        chain.append(found)
        found = (getattr(found, 'reason', None)
                 if isinstance(getattr(found, 'reason', None), Exception)
                 else found.__cause__ or found.__context__)
    for cause in chain:
        if isinstance(cause, requests.exceptions.SSLError):
            return ('cannot be reached: its certificate is not accepted, or '
                    'it does not speak TLS (%s)' % chain[-1])
        if isinstance(cause, requests.exceptions.ConnectTimeout):
            return 'cannot be reached: nobody answers within %d s' % (
                timeout[0])
        if isinstance(cause, requests.exceptions.ReadTimeout):
            return ('can be reached, but does not answer within %d s'
                    % timeout[1])
        if isinstance(cause, socket.gaierror):
            return 'cannot be reached: its host is not known (%s)' % cause
        if isinstance(cause, ConnectionRefusedError):
            return 'cannot be reached: nobody listens there'
    return 'cannot be reached: %s' % chain[-1]


class WorkerIdentity:
    """The identity and the challenge of one worker, in its folder."""

    def __init__(self, staging: str) -> None:
        self.staging = os.path.abspath(staging)
        self.folder = os.path.join(self.staging, folder.FOLDER)

    def uuid(self) -> str:
        """Return the UUID of the worker; it is made if need be.

        :raises: as :meth:`known_uuid`, and OSError if it cannot be written
        """
        known = self.known_uuid()
        if known is not None:
            return known
        self._make()
        path = os.path.join(self.folder, _IDENTITY)
        with temporary(self.folder, '%s\n' % uuid.uuid4(), True) as written:
            # Of several processes that make one, one has made it.
            with contextlib.suppress(FileExistsError):
                os.link(written, path)
        folder.sync_folder(self.folder)
        return _read_identity(path)

    def known_uuid(self) -> str | None:
        """Return the UUID of the worker, or None if it has none yet.

        :raises OSError: if it cannot be read
        :raises ValueError: if the file holds something else
        """
        try:
            return _read_identity(os.path.join(self.folder, _IDENTITY))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def challenge(self) -> abc.Iterator[str]:
        """Have all processes of the worker know a new secret in the block.

        :raises OSError: if it cannot be written
        """
        secret = secrets.token_hex(16)
        self._make()
        path = os.path.join(self.folder, _CHALLENGE)
        with temporary(self.folder, secret, True) as written:
            os.replace(written, path)
        try:
            yield secret
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def challenged(self) -> str | None:
        """Return the secret that answers have to prove, or None."""
        try:
            with open(os.path.join(self.folder, _CHALLENGE),
                      opener=open_at_once) as f:
                age = time.time() - os.fstat(f.fileno()).st_mtime
                return f.read(64) if age < _PATIENCE else None
        except (OSError, ValueError):
            return None

    def _make(self) -> None:
        # Not the staging folder itself: it may have to be mounted yet.
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, mode=0o700)


@contextlib.contextmanager
def temporary(folder: str, text: str, sync: bool) -> abc.Iterator[str]:
    """Write a file of a passing name, to be linked or renamed in the block.

    :param sync: whether it is on the disk before the block runs
    :raises OSError: if it cannot be written
    """
    fd, path = tempfile.mkstemp(dir=folder, prefix='.')
    try:
        with open(fd, 'w') as f:
            f.write(text)
            f.flush()
            if sync:
                os.fsync(f.fileno())
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def open_at_once(path: str, flags: int) -> int:
    """Open what may be no file: a pipe would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _read_identity(path: str) -> str:
    with open(path, opener=open_at_once) as f:
        text = f.read(100).strip()
    if not _UUID.fullmatch(text):
        raise ValueError('%s does not hold the name of a worker; remove it, '
                         'and another is made' % path)
    return text


def begin(identity: WorkerIdentity) -> None:
    """Wrap the healthcheck plugins, before Glance makes its application."""
    process.get(_Healthcheck).identity = identity
    points: list[typing.Any] = plugins.entry_points(plugins.HEALTHCHECK)
    points[:] = [point if isinstance(point, _Point) else _Point(point)
                 for point in points]


def mark(secret: str) -> str:
    """Return what the answer has in it while a secret is the challenge."""
    return _MARK + secret


class _Point:
    """An entry point whose plugin has ours around it."""

    def __init__(self, point: typing.Any) -> None:
        self._point = point

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._point, name)

    def load(self) -> typing.Callable[..., Answer]:
        """Return what makes the plugin."""
        kind = self._point.load()
        return lambda *args: Answer(kind(*args))


class Answer:
    """The plugin, as oslo.middleware calls it."""

    def __init__(self, plugin: typing.Any) -> None:
        process.get(_Healthcheck).is_loaded = True
        self._plugin = plugin

    def healthcheck(self, server_port: int) -> typing.Any:
        """Return the other plugin's result, with any secret of the moment."""
        result = self._plugin.healthcheck(server_port)
        identity = process.get(_Healthcheck).identity
        secret = identity.challenged() if identity else None
        if secret:
            result.reason = '%s %s' % (result.reason, mark(secret))
        return result
