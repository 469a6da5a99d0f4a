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

No configuration names the plugin: in processes of Glance's that have a
worker's folder, it stands around each of those that configurations name, and
leaves to them what the answer is.
"""

from __future__ import annotations

import typing

from glance_dcn.upstream import plugins
from glance_dcn.workers import place as places

_MARK = 'glance-dcn '

_place: places.Place | None = None
_loaded = False


def begin(place: places.Place) -> None:
    """Have healthchecks of this process answered from now on.

    It must be called before Glance makes its application.
    """
    global _place
    _place = place
    points: list[typing.Any] = plugins.entry_points(plugins.HEALTHCHECK)
    points[:] = [point if isinstance(point, _Point) else _Point(point)
                 for point in points]


def loaded() -> bool:
    """Return whether Glance has loaded the plugin in this process."""
    return _loaded


def mark(secret: str) -> str:
    """Return what the answer has in it while a secret is the one."""
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
        global _loaded
        _loaded = True
        self._plugin = plugin

    def healthcheck(self, server_port: int) -> typing.Any:
        """Return the other plugin's result, with any secret of the moment."""
        result = self._plugin.healthcheck(server_port)
        secret = _place.challenged() if _place else None
        if secret:
            result.reason = '%s %s' % (result.reason, mark(secret))
        return result
