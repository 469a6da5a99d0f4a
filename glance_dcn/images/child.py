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

"""The program that inspects one image file, in a process of its own.

:mod:`.inspection` runs it, by the path of this file::

    python -I -S -B child.py REQUEST < IMAGE

REQUEST is a JSON object: ``version``, what Python the caller is; ``path``,
its ``sys.path``, for an interpreter that is started so has none but the
standard library; ``inspectors``, whose inspectors it uses; ``tolerated``, see
:func:`examine`. The answer is one JSON object on standard output:
what :func:`examine` returns, or ``{"error": ...}``, for the log.

To start costs several times the CPU time that most images take. So with
``idle``, a number of seconds, in REQUEST the program becomes a server
(:mod:`.server`) that forks a process for each image, until none has come for
that time; standard input is the socket from which it gets them. All that is
imported before an image is read is what inspecting it needs.
"""

from __future__ import annotations

import collections.abc
import json
import resource
import signal
import sys
import traceback
import typing

# Characters of a reason that are handed on.
_LONGEST_REASON = 500


def examine(file: typing.BinaryIO,
            tolerated: collections.abc.Iterable[str] = ()
            ) -> dict[str, typing.Any]:
    """Find out what format an image file has, and what is wrong with it.

    :param file: the file, at its beginning
    :param tolerated: names of checks of partition tables that may fail
    :returns: ``format``, with ``others`` (formats that it may be declared to
        have as well), ``hazards`` (why qemu-img must not see it) and
        ``missing`` (what it lacks), lists of reasons; or ``refused``, a
        reason; or ``errno``, if it cannot be read; or ``memory``, True, if
        there is not enough
    """
    from glance_dcn.images import formats
    from glance_dcn.images import hazards
    try:
        name = formats.detect(file, tolerated)
        others = formats.find_others(file, name)
        driver = hazards.DRIVERS.get(name, name)
        unsafe = hazards.find(file, driver)
        missing = [] if unsafe else hazards.find_missing(file, driver)
    except formats.Refused as exc:
        return {'refused': _printable(str(exc))}
    except OSError as exc:
        return {'errno': exc.errno or 0}
    except MemoryError:
        return {'memory': True}
    except Exception:
        # Inspectors are not made for all that can be in a file.
        traceback.print_exc()
        return {'refused': 'its format cannot be inspected'}
    return {'format': _printable(name), 'others': others,
            'hazards': [_printable(reason) for reason in unsafe],
            'missing': [_printable(reason) for reason in missing]}


def _printable(text: str) -> str:
    return ''.join(char if char.isprintable() else '?'
                   for char in text[:_LONGEST_REASON])


def _load(request: dict[str, typing.Any]) -> str:
    """Import what inspecting needs; return why that is impossible, or ''."""
    version = list(sys.version_info[:2])
    if version != request['version']:
        return '%s is Python %d.%d, and Glance runs in %d.%d' % (
            sys.executable, *version, *request['version'])
    sys.path.extend(path for path in request['path'] if path not in sys.path)
    from glance_dcn.images import formats
    from glance_dcn.images import hazards  # noqa: F401
    if request['inspectors'] != formats.INSPECTORS:
        return 'it has no inspectors of %s in %s' % (request['inspectors'],
                                                     sys.path)
    return ''


def _tell(answer: dict[str, typing.Any]) -> None:
    sys.stdout.write(json.dumps(answer) + '\n')
    sys.stdout.flush()


def _inspect(tolerated: collections.abc.Iterable[str]) -> None:
    """Tell what the image at standard input is."""
    # From here on the image has a say: no file is opened any more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    # What a server has as sys.stdin is made for its socket.
    with open(0, 'rb', closefd=False) as file:
        _tell(examine(file, tolerated))


def main() -> None:
    """Answer the request on the command line, or become a server."""
    # The thread that started it may have blocked SIGXCPU, as those of uWSGI
    # have.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    request = json.loads(sys.argv[1])
    error = _load(request)
    if error:
        _tell({'error': error})
    elif 'idle' in request:
        from glance_dcn.images import server
        server.serve(request['idle'], _inspect)
    else:
        _inspect(request['tolerated'])


if __name__ == '__main__':
    main()
