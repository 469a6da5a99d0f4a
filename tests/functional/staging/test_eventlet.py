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

"""Work beside requests in a glance-api that eventlet has patched.

Deferred deletions, recovery and takeover, as under a WSGI server.
"""

from __future__ import annotations

from lab import glance
from tests.functional.api import test_tasks
from tests.functional.staging import test_gone
from tests.functional.staging import test_kills
from tests import releases


@releases.before(33)
class TasksOnEventletTest(test_tasks.TasksTest):

    program = glance.OnEventlet


@releases.before(33)
class KillOnEventletTest(test_kills.KillTest):

    program = glance.OnEventlet


@releases.before(33)
class GoneOnEventletTest(test_gone.GoneTest):

    program = glance.OnEventlet
