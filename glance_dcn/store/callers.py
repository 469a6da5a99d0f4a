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

"""What a request of Glance is, which a driver is not told.

The functions of Glance and glance_store that led to the call know it: it is
read from their frames. ``upstream.glance_interfaces`` proves of each that it
is as it is taken for here.
"""

from __future__ import annotations

import dataclasses
import sys
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Iterator
    import types

# Module of the controllers that show images; those that read an image's data
# are in others (glance_interfaces.SHOWING proves it).
_IMAGES = 'glance.api.v2.images'
# The function that sorts locations, how many frames it is away at most, and
# the name of the answer in its frame.
_SORTING = 'sort_image_locations'
_FRAMES = 6
_ANSWER = '__glance_dcn_is_shown'
# Module of the functions that ask all stores in turn for a location whose
# store Glance does not know, and the name that they have for those then
# (glance_interfaces.SEARCHING proves it).
_SEARCHING = 'glance_store.multi_backend'
_STORES = 'backends'
# Module and method of the thread that fills Glance's cache ahead, which ends
# for good with the first error that glance_store raises to it
# (glance_interfaces.CACHE_WORKER proves it).
_CACHING = 'glance.api.v2.cached_images', 'run'
# Module of Glance's locations (glance_interfaces.IMAGE_DELETION proves it).
_LOCATIONS = 'glance.location'


def deleted_image() -> typing.Any:
    """Return Glance's object for the image that it deletes now, or None.

    The method that walks through the locations knows both that all of an
    image is deleted and where else it lies.
    """
    frame = _find(_LOCATIONS, 'delete')
    return None if frame is None else frame.f_locals.get('self')


@dataclasses.dataclass(frozen=True)
class Removal:
    """One location that Glance takes from an image that stays.

    :ivar location: as Glance has it
    :ivar others: the image's other locations
    :ivar undoes_import: whether an import is undone, whose image never had
        data before
    """

    image_id: str
    location: dict[str, typing.Any]
    others: list[dict[str, typing.Any]]
    undoes_import: bool


def removal_from_one_store() -> Removal | None:
    """Return what is removed if Glance takes one location from an image.

    Glance takes locations from images in one method; what comes from
    elsewhere is taken for the deletion of the whole image.
    """
    frame = _find(_LOCATIONS, 'pop')
    if frame is None:
        return None
    names = frame.f_locals
    image = names['self'].image_proxy.image
    return Removal(image.image_id, names['location'],
                   list(names['self'].value), image.status != 'active'
                   and _find(_IMAGES) is None)


def is_search() -> bool:
    """Return whether all stores are asked for a location, one by one."""
    frame = _find(_SEARCHING)
    return frame is not None and _STORES in frame.f_locals


def is_cached_ahead() -> bool:
    """Return whether the thread that fills Glance's cache ahead reads."""
    return _find(*_CACHING) is not None


def is_shown() -> bool:
    """Return whether Glance loads an image in order to show it.

    It asks for weights whenever it loads an image, and does not tell what
    for. The controller that serves the request does. Of an image with hundreds
    of locations it asks as often, so the answer is left in the frame of the
    function that sorts them (PEP 667: names that the function does not have
    stay there).
    """
    # A plain loop: a list of images asks for each of their locations.
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            break
        if frame.f_code.co_name == _SORTING:
            names = frame.f_locals
            if _ANSWER not in names:
                names[_ANSWER] = _find(_IMAGES) is not None
            return bool(names[_ANSWER])
        frame = frame.f_back
    return _find(_IMAGES) is not None


def _find(module: str, function: str | None = None) -> types.FrameType | None:
    """Return the innermost frame of a module, or of a function in it."""
    return next((frame for frame in _frames()
                 if frame.f_globals.get('__name__') == module
                 and function in (None, frame.f_code.co_name)), None)


def _frames() -> Iterator[types.FrameType]:
    """Give the frames of those that called this module, innermost first."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is not globals():
            yield frame
        frame = frame.f_back
