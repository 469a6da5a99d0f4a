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

"""Changes of ``enabled_backends`` while others read it.

glance_store and Glance look the option up for every request, and add the
reserved stores to what they find. It is replaced as a whole, with those in
it, so that no request sees the dict that it walks through change.
"""

from __future__ import annotations

import os

from glance_store import multi_backend
from oslo_config import cfg

from glance_dcn.runtime import native
from glance_dcn.upstream import glance_interfaces

_lock = native.lock()
# Whose option was changed, and all that was changed of it: each change sets
# them all, so that none is lost, whatever value oslo.config keeps.
_conf: cfg.ConfigOpts | None = None
_types: dict[str, str | None] = {}


def change(conf: cfg.ConfigOpts, types: dict[str, str | None]) -> None:
    """Set the types of some stores.

    Nothing is changed if the reserved stores, which nothing works without,
    cannot be kept.

    :param types: type by identifier of the store; None: not enabled any more
    """
    global _conf
    if not glance_interfaces.usable(glance_interfaces.RESERVED_STORES):
        return
    with _lock:
        if conf is not _conf:
            _conf = conf
            _types.clear()
        _types.update(types)
        enabled = {**conf.enabled_backends, **multi_backend._RESERVED_STORES,
                   **_types}
        conf.set_override('enabled_backends', {
            name: kind for name, kind in enabled.items() if kind is not None})


def refresh(conf: cfg.ConfigOpts) -> None:
    """Make oslo.config forget the values it keeps of all options.

    A request that was looking an option up while it was changed may have
    kept the old value after all others were forgotten.
    """
    change(conf, {})


def _after_fork() -> None:
    global _lock
    _lock = native.lock()


os.register_at_fork(after_in_child=_after_fork)
