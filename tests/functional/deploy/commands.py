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


"""Running glance-dcn as an operator does."""

import os
import subprocess

from lab import wsgi


def glance_dcn(sites_file, *argv, env=None):
    """Run glance-dcn and return (exit status, output, errors).

    :param sites_file: path of the sites file
    :param env: dict of what else is in its environment
    """
    done = subprocess.run(
        [wsgi.BIN / 'glance-dcn', *argv], capture_output=True, text=True,
        timeout=120, check=False,
        env=dict(os.environ, GLANCE_DCN_SITES=str(sites_file), **(env or {})))
    return done.returncode, done.stdout, done.stderr
