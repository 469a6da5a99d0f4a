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

"""Undoing what a worker that is gone was doing."""


def undo(worker, entry):
    """Undo an import or a copy of a worker that is gone.

    :param worker: :class:`glance_dcn.workers.registry.Worker`
    :param entry: :class:`glance_dcn.staging.journal.Entry`
    """
    raise NotImplementedError
