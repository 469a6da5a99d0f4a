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

"""The lab's load balancer: haproxy, the public address of a site's workers."""

import pathlib

from lab import process
from lab import wsgi

_CONF = """\
global
    maxconn 256
    nbthread 1

defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    # uWSGI ends a connection after one answer.
    option httpclose
    # One that is down is left out; what it was asked is not asked again.
    option redispatch
    retries 2

frontend public
    bind 127.0.0.1:%(port)d
    default_backend workers

backend workers
    balance roundrobin
    option httpchk GET /healthcheck
%(servers)s
"""
_SERVER = ('    server %(name)s 127.0.0.1:%(port)d check inter 1s fall 2 '
           'rise 1')


class Balancer:
    """A haproxy that gives each request to the next worker.

    :param name: what it is called in messages
    :param directory: where its files are kept
    :param port: TCP port on 127.0.0.1
    :param ports: TCP ports of the workers
    """

    def __init__(self, name, directory, port, ports):
        self.directory = pathlib.Path(directory)
        self.port = port
        self.url = 'http://127.0.0.1:%d' % port
        self.daemon = process.Daemon(name, self.directory)
        self._ports = list(ports)

    @property
    def pid(self):
        """Its process id, or None when it does not run."""
        return self.daemon.pid

    def start(self):
        """Start it, and wait until a worker answers through it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        conf = self.directory / 'haproxy.cfg'
        conf.write_text(_CONF % {
            'port': self.port, 'servers': '\n'.join(
                _SERVER % {'name': 'worker-%d' % number, 'port': port}
                for number, port in enumerate(self._ports))})
        # In the foreground, in one process.
        self.daemon.start(['haproxy', '-db', '-f', conf])
        self.daemon.wait_until(
            lambda: wsgi.answers(self.url + '/healthcheck'), 30)

    def stop(self):
        """End it."""
        self.daemon.stop()
