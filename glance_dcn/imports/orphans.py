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

"""Staged data that nobody owns.

What a killed worker leaves is seen to by the recovery, as long as there is a
journal. This is for the rest: files of imports that began without it, or
whose image was deleted while another worker had it. Stock looks once, at its
start, for files of images that are gone. None is removed that may be the only
copy of an image.
"""

from __future__ import annotations

import logging
import os
import re
import time
import typing

from glance_dcn.imports import folder

if typing.TYPE_CHECKING:
    from glance_dcn.imports import journal as journals

LOG = logging.getLogger(__name__)

# Seconds between looks.
_INTERVAL = 600
_NAME = re.compile(
    r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=$|\.)',
    # Users may give images IDs in capitals.
    re.ASCII | re.IGNORECASE)

_looked: float | None = None


def look(journal: journals.Journal, age: float) -> None:
    """Remove staged files without an owner, now and then.

    :param age: seconds for which a file must not have changed: it is not
        being staged any more
    """
    global _looked
    now = time.monotonic()
    if _looked is None or now - _looked > _INTERVAL:
        _looked = now
        remove(journal, age)


def remove(journal: journals.Journal, age: float) -> list[str]:
    """Remove staged files without an owner, see :func:`look`; return them."""
    staging = os.path.dirname(journal.folder)
    owned = {entry.image for entry in journal.entries()}
    removed = []
    for name in sorted(os.listdir(staging)):
        match = _NAME.match(name)
        path = os.path.join(staging, name)
        if (match is None or match[0] in owned or not _is_old(path, age)
                or not _is_orphan(match[0], name, staging)):
            continue
        LOG.warning('Staged file %s is nobody\'s: it is removed', path)
        try:
            folder.discard(path)
        except OSError as exc:
            # The others are none the worse for it.
            LOG.warning('Staged file %(path)s cannot be removed: %(error)s',
                        {'path': path, 'error': exc})
            continue
        removed.append(path)
    return removed


def _is_old(path: str, age: float) -> bool:
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return False
    return time.time() - max(state.st_mtime, state.st_ctime) > age


def _is_orphan(image_id: str, name: str, staging: str) -> bool:
    from glance_dcn.upstream import database
    image = database.image(image_id)
    if image is None:
        return True
    if image['properties'].get(database.LOCK):
        return False
    if image['status'] in ('queued', 'active', 'deactivated'):
        # Its data is elsewhere, or it has none; being staged it would be
        # "uploading".
        return True
    # A half conversion: what it was made of is there.
    return (image['status'] == 'uploading' and name != image_id
            and os.path.exists(os.path.join(staging, image_id)))
