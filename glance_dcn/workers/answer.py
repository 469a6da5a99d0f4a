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

"""By what a worker knows that it is itself that answers at an address.

Glance's ``/healthcheck`` is answered by plugins of oslo.middleware, without a
token, by whatever process gets the request. While the worker asks its own
address, all its processes add a secret of the moment to that answer; nobody
else knows it. At all other times they add nothing.

The plugin is named in no configuration: it stands, in processes of Glance's
that have a worker's folder, beside each of those that may be.
"""

from importlib import metadata

from glance_dcn import plugins

_NAMESPACE = 'oslo.middleware.healthcheck'
_VALUE = 'glance_dcn.workers.answer:Answer'
_MARK = 'glance-dcn '

_place = None
_loaded = False


def begin(place):
    """Have healthchecks of this process answered from now on.

    It must be called before Glance makes its application.

    :param place: :class:`glance_dcn.workers.place.Place`
    """
    global _place
    _place = place
    points = plugins.entry_points(_NAMESPACE)
    if any(point.value == _VALUE for point in points):
        return
    for name in {point.name for point in points}:
        points.append(metadata.EntryPoint(name, _VALUE, _NAMESPACE))


def loaded():
    """Return whether Glance has loaded the plugin in this process."""
    return _loaded


def mark(secret):
    """Return what the answer has in it while a secret is the one."""
    return _MARK + secret


class Answer:
    """The plugin, as oslo.middleware loads it."""

    def __init__(self, *unused):
        global _loaded
        _loaded = True

    def healthcheck(self, server_port):
        """Return the result: well, and with the secret if there is one."""
        from oslo_middleware.healthcheck import pluginbase
        secret = _place.challenged() if _place else None
        return pluginbase.HealthcheckResult(
            available=True, reason=mark(secret) if secret else '')
