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

"""A WAN link between this machine and a network namespace of a site.

Delay, rate and loss are those of netem where the kernel has it, otherwise of
a small program (``wan.c``, compiled at first use) that carries the packets of
two TUN devices. The link can be changed, cut and healed while it is in use.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import signal

from lab import process

# Set aside for benchmarks of networks (RFC 2544): not routed anywhere.
_NEAR, _FAR = '198.18.%d.1', '198.18.%d.2'
_MTU = 9000
# One stream fills a link of 1 Gbit/s at 100 ms only if so much may be under
# way; the kernel counts its own overhead in.
_SEND_BUFFER = 32 << 20
_WMEM = pathlib.Path('/proc/sys/net/ipv4/tcp_wmem')
_RMEM = pathlib.Path('/proc/sys/net/ipv4/tcp_rmem')
_WMEM_LOCK = '/run/lock/glance-dcn-lab-wmem'


@dataclasses.dataclass(frozen=True)
class Quality:
    """What a link is like.

    :param delay: milliseconds one way: half of what a round trip takes
    :param rate: Mbit/s each way; 0: as fast as the machine goes
    :param loss: share of the packets that is lost, between 0 and 1
    """

    delay: float = 0
    rate: float = 0
    loss: float = 0

    def __post_init__(self):
        if self.delay < 0 or self.rate < 0 or not 0 <= self.loss <= 1:
            raise ValueError('there is no link such as %r' % (self,))


class Link:
    """A link to a network namespace of its own.

    :param directory: where its files are kept; what a crashed run has left
                      is found by them
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.pump = process.Daemon('wan', self.directory)
        self._facts = self.directory / 'link.json'
        self._last = self.directory / 'number'

    @property
    def namespace(self):
        """The name of the namespace."""
        return 'dcnwan%d' % self._number

    @property
    def near(self):
        """This machine's address on the link."""
        return _NEAR % self._number

    @property
    def far(self):
        """The address of the namespace, for the daemons of a site."""
        return _FAR % self._number

    @property
    def up(self):
        """Whether the link is there, cut or not."""
        return self._facts.exists() and self._near_statistics.exists()

    def start(self, quality=None):
        """Make the namespace and the link, or begin anew after a crash.

        :param quality: :class:`Quality`, by default a link without limits
        :raises LabError: without the rights of root, or without TUN
        """
        if os.geteuid():
            raise process.LabError('a WAN link needs the rights of root: '
                                   'it makes a network namespace')
        self.stop()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._make_namespace()
            self._connect()
            self._save(wmem=_raise_send_buffer())
            self._in_namespace_write(_WMEM, '4096 65536 %d' % _SEND_BUFFER)
            self._in_namespace_write(_RMEM, '4096 131072 %d' % _SEND_BUFFER)
            self.set(quality or Quality())
        except Exception:
            self.stop()
            raise

    def stop(self):
        """Remove the link and the namespace.

        The site's daemons must have been ended before.
        """
        if not self._facts.exists():
            return
        facts = self._known()
        self.pump.stop()
        for argv in (['ip', 'link', 'del', self._device('n')],
                     ['ip', 'netns', 'del', self.namespace]):
            with contextlib.suppress(process.LabError):
                process.run(argv)
        if facts.get('wmem'):
            _restore_send_buffer(facts['wmem'])
        # The site's daemons want the same address again.
        self._last.write_text(str(facts['number']))
        self._facts.unlink()

    def set(self, quality):
        """Give the link another :class:`Quality`, at once.

        Connections live on, but TCP needs ten seconds or more to find out
        what the path is like now: to measure, make new ones.
        """
        self._save(quality=dataclasses.asdict(quality), cut=False)
        self._apply(quality, cut=False)

    def cut(self):
        """Let nothing through, as if a digger had found the cable."""
        self._save(cut=True)
        self._apply(self.quality, cut=True)

    def heal(self):
        """End a :meth:`cut`."""
        self._save(cut=False)
        self._apply(self.quality, cut=False)

    @property
    def quality(self):
        """The :class:`Quality` that was set."""
        return Quality(**self._known()['quality'])

    def counters(self):
        """Return the bytes sent to the site, and received from it.

        Counted in IP packets at this machine's end, before any is lost.
        """
        return tuple(int((self._near_statistics / name).read_text())
                     for name in ('tx_bytes', 'rx_bytes'))

    def command(self, argv):
        """Return the argument list that runs a command at the site."""
        return ['nsenter', '--net=%s' % self._namespace_file, '--', *argv]

    @property
    def _namespace_file(self):
        return pathlib.Path('/run/netns') / self.namespace

    @property
    def _near_statistics(self):
        return pathlib.Path('/sys/class/net', self._device('n'), 'statistics')

    @property
    def _number(self):
        return self._known()['number']

    def _device(self, end):
        return 'dcnw%s%d' % (end, self._number)

    def _known(self):
        return json.loads(self._facts.read_text())

    def _save(self, **facts):
        known = self._known() if self._facts.exists() else {}
        process.write_private(self._facts, json.dumps(dict(known, **facts)))

    def _make_namespace(self):
        """Make a namespace with a number that no other lab has."""
        for number in [*self._numbers_before(), *range(256)]:
            if pathlib.Path('/run/netns/dcnwan%d' % number).exists():
                continue
            # Written down first: what is made is found after any crash.
            self._save(number=number, kind=None, wmem=None)
            try:
                process.run(['ip', 'netns', 'add', self.namespace])
            except process.LabError:
                self._facts.unlink()
                if pathlib.Path('/run/netns/dcnwan%d' % number).exists():
                    continue
                raise
            return
        raise process.LabError('there are 256 WAN links already')

    def _numbers_before(self):
        try:
            return [int(self._last.read_text())]
        except FileNotFoundError:
            return []

    def _connect(self):
        """Make the two ends and give them their addresses."""
        near, far = self._device('n'), self._device('f')
        if self._has_netem():
            self._save(kind='netem')
            process.run(['ip', 'link', 'add', near, 'type', 'veth', 'peer',
                         'name', far, 'netns', self.namespace])
        else:
            self._save(kind='tun')
            self._start_pump(near, far)
        inside = ['ip', '-n', self.namespace]
        process.run([*inside, 'link', 'set', 'lo', 'up'])
        for ip, device, local, peer in (
                (['ip'], near, self.near, self.far),
                (inside, far, self.far, self.near)):
            process.run([*ip, 'addr', 'add', local, 'peer', peer,
                         'dev', device])
            process.run([*ip, 'link', 'set', device, 'mtu', _MTU,
                         'txqueuelen', 10000, 'up'])

    def _has_netem(self):
        """Try netem on the namespace's loopback device."""
        try:
            self._tc(['-n', self.namespace], 'lo', ['delay', '1ms'])
            process.run(['tc', '-n', self.namespace, 'qdisc', 'del', 'dev',
                         'lo', 'root'])
        except process.LabError:
            return False
        return True

    def _start_pump(self, near, far):
        if not os.access('/dev/net/tun', os.R_OK | os.W_OK):
            raise process.LabError('this kernel has neither netem nor TUN: '
                                   'there can be no WAN link')
        program = self.directory / 'wan-link'
        source = pathlib.Path(__file__).with_name('wan.c')
        process.run(['cc', '-O2', '-Wall', '-o', program, source])
        self._write_settings(Quality(), cut=False)
        self.pump.start([program, self._namespace_file, near, far,
                         self._settings])
        self.pump.wait_until(self._ends_exist, timeout=10)

    def _ends_exist(self):
        return (self._near_statistics.exists()
                and self._device('f') in process.run(
                    ['ip', '-n', self.namespace, '-o', 'link']))

    def _apply(self, quality, cut):
        # What TCP remembers of the path is of another path now.
        with contextlib.suppress(process.LabError):
            process.run(['ip', 'tcp_metrics', 'flush', self.far])
        if self._known()['kind'] == 'tun':
            serial = self._write_settings(quality, cut)
            self.pump.signal(signal.SIGHUP)
            self.pump.wait_until(lambda: self._done(serial), timeout=10)
            return
        options = netem_options(quality, cut)
        self._tc([], self._device('n'), options)
        self._tc(['-n', self.namespace], self._device('f'), options)

    def _tc(self, where, device, options):
        process.run(['tc', *where, 'qdisc', 'replace', 'dev', device, 'root',
                     'netem', *options])

    @property
    def _settings(self):
        return self.directory / 'settings'

    def _write_settings(self, quality, cut):
        """Write the settings and return their serial number."""
        serial = self._known().get('serial', 0) + 1
        self._save(serial=serial)
        process.write_private(self._settings,
                              pump_settings(quality, cut, serial))
        return serial

    def _done(self, serial):
        try:
            done = self._settings.with_suffix('.done').read_text()
        except FileNotFoundError:
            return False
        return done == '%d\n' % serial

    def _in_namespace_write(self, path, text):
        process.run(self.command(['tee', path]), input=text)


def pump_settings(quality, cut, serial):
    """Return the settings file of ``wan.c``, see there."""
    return '%d %d %d %d %d\n' % (
        quality.delay * 1000, quality.rate * 1000000,
        round(quality.loss * 1000000), cut, serial)


def netem_options(quality, cut):
    """Return the options of a netem qdisc."""
    options = ['limit', 100000, 'delay', '%dus' % (quality.delay * 1000)]
    loss = 1 if cut else quality.loss
    if loss:
        options += ['loss', '%.4f%%' % (loss * 100)]
    if quality.rate:
        options += ['rate', '%dkbit' % (quality.rate * 1000)]
    return options


@contextlib.contextmanager
def _wmem_locked():
    with open(_WMEM_LOCK, 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _raise_send_buffer():
    """Let one TCP stream of this machine fill the link.

    :returns: what the setting was, or None when it was enough
    """
    with _wmem_locked():
        before = _WMEM.read_text().split()
        if int(before[2]) >= _SEND_BUFFER:
            return None
        _WMEM.write_text(' '.join([*before[:2], str(_SEND_BUFFER)]))
        return before


def _restore_send_buffer(before):
    """Undo :func:`_raise_send_buffer`, unless it was changed since."""
    with _wmem_locked():
        now = _WMEM.read_text().split()
        if now == [*before[:2], str(_SEND_BUFFER)]:
            _WMEM.write_text(' '.join(before))
