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

"""How Sphinx builds the guide. Nothing is fetched from a network."""

import os

from docutils import nodes

project = 'glance-dcn'
copyright = 'OpenStack contributors'
extensions = [
    'openstackdocstheme',
    'oslo_config.sphinxext',
]
source_suffix = {'.rst': 'restructuredtext'}
master_doc = 'index'
exclude_patterns = []
pygments_style = 'native'

html_theme = 'openstackdocs'
html_static_path = ['_static']
html_css_files = ['tables.css']
openstackdocs_repo_name = 'glance-dcn'
openstackdocs_auto_name = False
openstackdocs_auto_version = False

# oslo_config.sphinxext looks for the generator's file from the top folder.
_TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), '../..'))
config_generator_config_file = os.path.join(
    _TOP, 'etc/oslo-config-generator/glance-dcn.conf')

man_pages = [
    ('cli/index', 'glance-dcn', 'shows how the sites of Glance are',
     'OpenStack', 1),
    ('configuration/sites-file', 'glance-dcn-sites',
     'the file that says which sites Glance has', 'OpenStack', 5),
]


def setup(app):
    """Have manual pages name other pages, which cannot be followed there."""
    app.connect('doctree-resolved', _unlink)


def _unlink(app, doctree, _name):
    if app.builder.name == 'man':
        for node in [*doctree.findall(nodes.reference)]:
            if node.get('internal'):
                node.replace_self(node.children)
