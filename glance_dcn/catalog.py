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

"""What Glance's database says of an image.

Data at a site is only thrown away for somebody else when no location names
it. Only Glance knows, and only in a process of Glance's can it be asked.
"""

from glance_dcn.engine import native

#: The image has the location, or may still be given back (delayed delete).
NAMED = 'named'
#: Glance knows the image, and it does not have the location.
NOT_NAMED = 'not named'
#: Glance knows that the image was deleted.
DELETED = 'deleted'
#: Glance's database has never had the image, or has forgotten it.
UNKNOWN = 'unknown'
#: There is no Glance in this process that could be asked.
NOBODY = 'nobody'

_conf = None


def use(conf):
    """Ask the Glance in this process from now on, if it is one of Glance's.

    :param conf: oslo.config object that glance_store was set up with
    :returns: whether it is
    """
    global _conf
    # An option that Glance registers and nobody else.
    if 'worker_self_reference_url' in conf:
        _conf = conf
    return _conf is not None


def present():
    """Return whether there is somebody to ask."""
    # A thread of the work beside requests must not touch what eventlet has
    # patched, such as the pool of database connections.
    return _conf is not None and not native.patched()


def ask(image_id, uri):
    """Return whether an image has a location.

    :param image_id: ID of the image
    :param uri: the location
    :returns: NAMED, NOT_NAMED, DELETED, UNKNOWN or NOBODY
    :raises Exception: whatever Glance raises if its database does not answer
    """
    if not present():
        return NOBODY
    from glance.common import exception
    from glance import context
    from glance import db
    api = db.get_api()
    try:
        image = api.image_get(context.get_admin_context(show_deleted=True),
                              image_id, force_show_deleted=True)
    except exception.NotFound:
        return UNKNOWN
    if image['status'] == 'pending_delete':
        return NAMED
    if image['deleted']:
        return DELETED
    return NAMED if uri in _uris(image['locations']) else NOT_NAMED


def locations(image_id):
    """Return the URIs of an image's locations; none without a database.

    For threads of requests.

    :param image_id: ID of the image
    """
    if _conf is None:
        return []
    from glance.common import exception
    from glance import context
    from glance import db
    try:
        image = db.get_api().image_get(context.get_admin_context(), image_id)
    except exception.NotFound:
        return []
    return _uris(image['locations'])


def _uris(locations):
    """Return the URIs of locations, which Glance may keep encrypted."""
    from glance.common import crypt
    key = _conf.metadata_encryption_key
    return [crypt.urlsafe_decrypt(key, location['url']) if key
            else location['url'] for location in locations
            if location['status'] in ('active', 'pending_delete')]
