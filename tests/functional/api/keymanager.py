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

"""A key manager for tests: certificates are files in a folder.

Takes the place of Barbican in ``[key_manager] backend``. The name of the
folder is in the environment variable GLANCE_DCN_TEST_CERTIFICATES.
"""

import os
import pathlib

from castellan.common import exception
from castellan.common.objects import x_509
from castellan.key_manager import key_manager

FOLDER = 'GLANCE_DCN_TEST_CERTIFICATES'


class FolderKeyManager(key_manager.KeyManager):
    """Gives certificates (DER) by the names of their files."""

    def __init__(self, configuration=None):
        """Do without the base class's demand for a configuration."""

    def get(self, context, managed_object_id, metadata_only=False):
        """Return a certificate."""
        try:
            return x_509.X509(
                (pathlib.Path(os.environ[FOLDER])
                 / managed_object_id).read_bytes())
        except FileNotFoundError:
            raise exception.ManagedObjectNotFoundError(
                uuid=managed_object_id)

    def _refuse(self, *args, **kwargs):
        raise NotImplementedError

    create_key = create_key_pair = store = delete = _refuse
    add_consumer = remove_consumer = _refuse
