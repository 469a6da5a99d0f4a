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

"""How Sphinx builds the release notes. Nothing is fetched from a network."""

project = 'glance-dcn Release Notes'
copyright = 'OpenStack contributors'
extensions = [
    'openstackdocstheme',
    'reno.sphinxext',
]
source_suffix = {'.rst': 'restructuredtext'}
master_doc = 'index'
exclude_patterns = []
# The notes are those of the branch, not of one version.
release = ''
version = ''
pygments_style = 'native'

html_theme = 'openstackdocs'
openstackdocs_repo_name = 'glance-dcn'
openstackdocs_auto_name = False
openstackdocs_auto_version = False
