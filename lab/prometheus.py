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


"""A Prometheus that scrapes one exporter every second."""

import contextlib
import pathlib

import requests

from lab import process

_CONFIG = """\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
scrape_configs:
- job_name: glance-dcn
  static_configs:
  - targets: ['127.0.0.1:%d']
"""


class Api:
    """What a Prometheus has recorded."""

    def __init__(self, url):
        self.url = url

    def query(self, expression):
        """Return the series of an expression, as (labels, value)."""
        return [(series['metric'], float(series['value'][1]))
                for series in self._get('query', query=expression)]

    def query_range(self, expression, begin, end, step):
        """Return the series of an expression over time.

        :param begin: seconds since the epoch
        :param end: likewise
        :param step: seconds between two values
        :returns: list of (labels, list of (seconds since the epoch, value))
        """
        return [(series['metric'], [(moment, float(value)) for moment, value
                                    in series['values']])
                for series in self._get('query_range', query=expression,
                                        start=begin, end=end, step=step)]

    def _get(self, what, **params):
        answer = requests.get('%s/api/v1/%s' % (self.url, what), params,
                              timeout=10).json()
        if answer['status'] != 'success':
            raise process.LabError('%s: %s' % (params['query'],
                                               answer['error']))
        return answer['data']['result']


class Prometheus(Api):
    """A Prometheus of Debian's, at this machine's own address.

    :param directory: where it keeps what it has recorded
    :param target: port of the exporter
    """

    def __init__(self, directory, target):
        self._directory = pathlib.Path(directory)
        self._target = target
        self._port = process.free_port(taken=(target,))
        super().__init__('http://127.0.0.1:%d' % self._port)
        self._daemon = process.Daemon('prometheus', directory)

    def start(self):
        """Start it, and wait until it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / 'prometheus.yml'
        config.write_text(_CONFIG % self._target)
        self._daemon.start([
            'prometheus', '--config.file=%s' % config,
            '--storage.tsdb.path=%s' % (self._directory / 'data'),
            '--web.listen-address=127.0.0.1:%d' % self._port])
        self._daemon.wait_until(self._is_ready, 30)

    def stop(self):
        """End it."""
        self._daemon.stop()

    def _is_ready(self):
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.url + '/-/ready', timeout=5).ok
        return False
