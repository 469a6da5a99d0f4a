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

"""The checks of a deployment, the faults they find, and the remedies.

A check is a function that returns a text for a passed check, or raises
:class:`Found` with the name of one of the faults that it was registered with.
Each fault has its level, its message and its remedy, so that the guide can
list them all.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import time
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterable
    from collections.abc import Mapping

    from glance_dcn.checks import subjects

LOG = logging.getLogger(__name__)

# How many things a message names.
_SHOWN = 5


class Level(str, enum.Enum):
    """The outcome of a check, as it is shown."""

    OK = 'ok'
    WARN = 'warn'
    FAIL = 'fail'
    SKIP = 'skip'

    __str__ = str.__str__


class Scope(enum.Enum):
    """The kind of subject of a check."""

    SITE = 'the cluster of a site'
    ALL = 'all clusters together'
    NODE = 'the configuration of this node'
    GLANCE = 'a Glance that serves somewhere'


OK, WARN, FAIL, SKIP = Level
SITE, ALL, NODE, GLANCE = Scope


def some(texts: Iterable[str]) -> str:
    """Return the first ones of texts, and how many more there are."""
    ordered = sorted(set(texts))
    return ', '.join(ordered[:_SHOWN]) + (
        ' and %d more' % (len(ordered) - _SHOWN)
        if len(ordered) > _SHOWN else '')


_Function = typing.TypeVar('_Function', bound='Callable[..., str]')

#: Of every check.
LATE = 'gave no answer within %(seconds)d s'
LATE_REMEDY = ('the site hangs or is very far: see that its cluster is '
               'healthy, or allow more time with --timeout')
BROKEN = 'could not be carried out (%(error)s)'
BROKEN_REMEDY = 'run the command with --debug, which shows where it failed'


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that a check may find.

    :ivar text: the symptom, with ``%(name)s`` for fields
    :ivar remedy: likewise
    """

    level: Level
    text: str
    remedy: str


class Found(Exception):
    """A check found a fault.

    :ivar fields: what fills in its message and remedy, beside the fields of
        the subject
    """

    def __init__(self, fault: str, **fields: object) -> None:
        super().__init__(fault)
        self.fault = fault
        self.fields = fields


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    :ivar site: the subject: a site, ``node``, or a URL
    """

    site: str
    check: str
    level: Level
    text: str
    remedy: str | None = None
    seconds: float = 0.0
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Check:
    """A check.

    :ivar name: as shown and chosen by operators
    :ivar title: the state that is proved if it passes
    :ivar needs: names of checks that must pass before this one can run
    """

    name: str
    title: str
    scope: Scope
    function: Callable[[typing.Any], str]
    faults: dict[str, Fault]
    needs: tuple[str, ...] = ()

    def run(self, subject: subjects.Subject) -> Finding:
        """Run the check and return the finding; raise nothing."""
        began = time.monotonic()
        level, remedy = OK, None
        try:
            text = self.function(subject)
        except Found as exc:
            fault = self.faults[exc.fault]
            fields = {**subject.fields, **exc.fields}
            level = fault.level
            text, remedy = fault.text % fields, fault.remedy % fields
        except Exception as exc:
            LOG.debug('Check %s of %s failed', self.name, subject.name,
                      exc_info=True)
            level, remedy = FAIL, BROKEN_REMEDY
            text = BROKEN % {'error': exc or type(exc).__name__}
        return Finding(subject.name, self.name, level, text, remedy,
                       time.monotonic() - began,
                       subject.figures.get(self.name, {}))

    def late(self, subject: subjects.Subject, seconds: float) -> Finding:
        """Return the finding of a check that did not end in time."""
        return Finding(subject.name, self.name, FAIL,
                       LATE % {'seconds': seconds}, LATE_REMEDY, seconds)

    def skipped(self, subject: subjects.Subject, why: str) -> Finding:
        """Return the finding of a check that did not run."""
        return Finding(subject.name, self.name, SKIP, why)


#: All checks by name, in the order in which they are carried out.
CHECKS: dict[str, Check] = {}


def check(name: str, scope: Scope, title: str, needs: tuple[str, ...] = (),
          **faults: tuple[Level, str, str]
          ) -> Callable[[_Function], _Function]:
    """Register a function as a check.

    :param faults: (level, text, remedy) by name
    """
    def register(function: _Function) -> _Function:
        CHECKS[name] = Check(
            name, title, scope, function,
            {fault: Fault(*what) for fault, what in faults.items()},
            tuple(needs))
        return function
    return register


def of(scope: Scope, checks: Mapping[str, Check] = CHECKS) -> list[Check]:
    """Return the checks of a scope, in order."""
    return [entry for entry in checks.values() if entry.scope == scope]
