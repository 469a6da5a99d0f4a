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

"""A RabbitMQ broker, which Cinder's services talk through."""

import pathlib
import secrets

from lab import process

_SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'


class RabbitMQ:
    """One broker with a port mapper of its own, on 127.0.0.1 alone.

    :param directory: where its files are kept
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        # Erlang would start it by itself, and leave it running.
        self._mapper = process.Daemon('epmd', self.directory / 'run')
        self._broker = process.Daemon('rabbitmq', self.directory / 'run')
        self._port = None
        self._password = secrets.token_hex(12)

    @property
    def url(self):
        """What is oslo.messaging's ``transport_url``."""
        return 'rabbit://lab:%s@127.0.0.1:%d/' % (self._password, self._port)

    def start(self, timeout=120):
        """Start both, with a new password."""
        self.directory.mkdir(parents=True, exist_ok=True)
        taken = []
        for _port in range(3):
            taken.append(process.free_port(taken))
        self._port, mapper, distribution = taken
        conf = self.directory / 'rabbitmq.conf'
        process.write_private(conf, (
            'listeners.tcp.default = 127.0.0.1:%d\n'
            'default_user = lab\ndefault_pass = %s\n'
            'loopback_users = none\nlog.console = true\nlog.file = false\n'
            'disk_free_limit.absolute = 50MB\n'
            % (self._port, self._password)))
        environment = {
            # The cookie is kept there.
            'HOME': str(self.directory),
            'ERL_EPMD_PORT': str(mapper),
            'ERL_EPMD_ADDRESS': '127.0.0.1',
            # The script becomes Erlang, which can then be ended by its ID.
            'RUNNING_UNDER_SYSTEMD': 'true',
            'RABBITMQ_NODENAME': 'lab@localhost',
            'RABBITMQ_DIST_PORT': str(distribution),
            'RABBITMQ_CONFIG_FILE': str(conf),
            'RABBITMQ_CONF_ENV_FILE': '/dev/null',
            'RABBITMQ_MNESIA_BASE': str(self.directory / 'mnesia'),
            'RABBITMQ_LOG_BASE': str(self.directory / 'log'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': str(self.directory / 'plugins'),
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS':
                '-kernel inet_dist_use_interface {127,0,0,1}',
        }
        self._mapper.start(['epmd', '-port', mapper, '-address', '127.0.0.1'],
                           environment)
        self._broker.start([_SERVER], environment)
        self._broker.wait_until(
            lambda: 'Server startup complete' in self._broker.tail(), timeout)

    def stop(self):
        """End both."""
        self._broker.stop()
        self._mapper.stop()
