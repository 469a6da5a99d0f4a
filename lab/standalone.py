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

"""The program glance-api of releases before 33: Glance on eventlet."""

import pathlib

from lab import process
from lab import wsgi


class Service:
    """The program, with as much of :class:`lab.wsgi.Service` as is needed.

    :param name: what it is called in messages
    :param directory: where its pid file and log are kept
    :param port: TCP port on 127.0.0.1
    :param env: environment variables to add, the folder of its configuration
        among them
    :param prefix: arguments of a program that starts it, such as ``prlimit``
    """

    def __init__(self, name, directory, port, env, prefix=()):
        self.name = name
        self.port = port
        self.url = 'http://127.0.0.1:%d' % port
        self.daemon = process.Daemon(name, pathlib.Path(directory))
        self._env = dict(env)
        self._prefix = prefix

    @property
    def pid(self):
        """Process id of the parent of all workers, or None."""
        return self.daemon.pid

    def worker_pids(self):
        """Return the process ids of the parent's children."""
        return process.children(self.pid)

    def start(self, path, timeout=60):
        """Start the service and wait until it answers.

        :param path: path of a URL that answers without a token
        :param timeout: seconds
        """
        self.daemon.start(
            [*self._prefix, wsgi.BIN / 'glance-api', '--config-dir',
             self._env['OS_GLANCE_CONFIG_DIR']],
            env=dict(self._env, **wsgi.environment(wsgi.BIN)))
        self.daemon.wait_until(lambda: wsgi.answers(self.url + path), timeout)

    def stop(self):
        """End the service."""
        self.daemon.stop()
