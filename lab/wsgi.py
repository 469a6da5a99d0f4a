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

"""Running a WSGI service of OpenStack under uWSGI."""

import os
import pathlib
import sys
import urllib.error
import urllib.request

from lab import process

BIN = pathlib.Path(sys.executable).parent

# Oslo's libraries import eventlet, which serves nothing here: its resolver is
# a seventh of what Glance takes to start.
_ENVIRONMENT = {'EVENTLET_NO_GREENDNS': 'yes'}
_INI = """\
[uwsgi]
http-socket = %(address)s:%(port)d
module = %(module)s
processes = %(processes)d
threads = %(threads)d
master = true
enable-threads = true
lazy-apps = true
die-on-term = true
thunder-lock = true
need-app = true
buffer-size = 65535
# uWSGI's http-socket ends a connection after one answer: say so, or clients
# that keep connections open see them reset.
add-header = Connection: close
# glanceclient uploads in chunks of 1 MiB, the most that uWSGI takes by
# default less their headers, and a slow client may pause between two of them.
chunked-input-limit = 4194304
chunked-input-timeout = 60
# A worker is given time to end the imports it runs.
worker-reload-mercy = 10
log-format = %%(addr) %%(method) %%(uri) %%(status) %%(msecs)ms
"""


class Service:
    """One uWSGI master with its worker processes.

    :param name: what it is called in messages
    :param module: the WSGI module, as ``package.module:application``
    :param directory: where its ini file, pid file and log are kept
    :param port: TCP port on 127.0.0.1
    :param env: environment variables to add
    :param threads: requests served at the same time by each process
    :param processes: number of worker processes
    :param programs: folder of another virtual environment's programs
    :param prefix: arguments of a program that starts it, such as ``prlimit``
    """

    def __init__(self, name, module, directory, port, env=None, threads=8,
                 processes=1, programs=None, prefix=()):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.port = port
        self.url = 'http://127.0.0.1:%d' % port
        self.daemon = process.Daemon(name, self.directory)
        self._env = dict(env or {})
        self._programs = programs
        self._prefix = prefix
        self._ini = _INI % {'address': '127.0.0.1', 'port': port,
                            'module': module, 'threads': threads,
                            'processes': processes}

    @property
    def pid(self):
        """Process id of the uWSGI master, or None."""
        return self.daemon.pid

    def worker_pids(self):
        """Return the process ids of the master's children."""
        return process.children(self.pid)

    def start(self, path, timeout=60):
        """Start the service and wait until it answers.

        :param path: path of a URL that answers without a token
        :param timeout: seconds
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        ini = self.directory / 'uwsgi.ini'
        ini.write_text(self._ini)
        programs = self._programs or BIN
        self.daemon.start([*self._prefix, programs / 'uwsgi', '--ini', ini],
                          env=dict(_ENVIRONMENT, **self._env,
                                   **environment(programs)))
        self.daemon.wait_until(lambda: answers(self.url + path), timeout)

    def stop(self):
        """End the service."""
        self.daemon.stop()


def environment(programs):
    """Return the environment variables of a virtual environment.

    :param programs: its folder of programs
    """
    return {'VIRTUAL_ENV': str(programs.parent),
            'PATH': '%s:%s' % (programs, os.environ['PATH'])}


def answers(url):
    """Return whether a GET of a URL is answered, with whatever status."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False


def write_conf(path, sections):
    """Write an oslo.config file that only its owner may read.

    :param path: path of the file
    :param sections: dict of dicts; a list value becomes several lines
    """
    lines = []
    for section, values in sections.items():
        lines.append('[%s]' % section)
        for key, value in values.items():
            for item in value if isinstance(value, list) else [value]:
                lines.append('%s = %s' % (key, item))
        lines.append('')
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    process.write_private(path, '\n'.join(lines))
