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

"""Setting a process's task queue up from its configuration."""

from __future__ import annotations

import contextlib
import hashlib

from oslo_config import cfg

GROUP = 'glance_dcn'

OPTS = [
    cfg.StrOpt('deployment_id',
               help="""
Identity of the deployment, by which its records are told from others'.

Two Glances with databases of their own may have a store in the same pool of
the same cluster, with the same name. Each acts upon its own records alone.
All Glances that share a default store and a database need the same value.

Possible values:
    * Text
    * Not set: made of host, port and name of the database in ``[database]
      connection``; set it before these are changed

"""),
]


def deployment_id(conf: cfg.ConfigOpts) -> str:
    """Return the identity of the deployment; '' where there is no database.

    :param conf: with the option registered
    """
    chosen: str | None = conf[GROUP].deployment_id
    if chosen:
        return chosen
    connection = _connection(conf)
    if not connection:
        return ''
    # Without user and password, which are rotated. A password may have any
    # character but '@'.
    before, _at, place = connection.rpartition('@')
    if not before:
        place = connection.partition('://')[2]
    place = place.partition('?')[0]
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _connection(conf: cfg.ConfigOpts) -> str | None:
    """Return the connection of Glance's database, or None.

    Glance has its options known when it first opens the database, which is
    after its stores were configured.
    """
    try:
        from oslo_db import options
    except ImportError:
        # A program other than Glance.
        return None
    with contextlib.suppress(cfg.DuplicateOptError):
        conf.register_opts(options.database_opts, group='database')
    connection: str | None = conf.database.connection
    return connection
