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

"""All options of glance_dcn, for oslo-config-generator."""

from __future__ import annotations

import typing

from glance_dcn.imports import options as import_options
from glance_dcn.store import options
from glance_dcn.tasks import deployment as deployments

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from oslo_config import cfg


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """Return (group, options) pairs.

    A store's options stand in the group named after the store; in the sample
    that store is called ``dcn0``.
    """
    return [(import_options.GROUP,
             [*import_options.OPTS, *options.PROCESS_OPTS,
              *deployments.OPTS]),
            ('dcn0', options.STORE_OPTS)]
