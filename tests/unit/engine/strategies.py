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


"""What hypothesis builds images from."""

import hypothesis
from hypothesis import strategies as st

from glance_dcn.engine import extents

BLOCK = extents.BLOCK

# Real data takes real time, and more of it on a busy machine.
hypothesis.settings.register_profile(
    'engine', deadline=None, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow,
                           hypothesis.HealthCheck.data_too_large])
hypothesis.settings.load_profile('engine')

# Around what matters: sectors, blocks, requests.
_EDGES = [0, 1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1,
          3 * BLOCK + 100, extents.REQUEST - 1, extents.REQUEST,
          extents.REQUEST + 1, 2 * extents.REQUEST + BLOCK + 7]

sizes = st.one_of(st.sampled_from(_EDGES),
                  st.integers(0, 3 * extents.REQUEST))


@st.composite
def images(draw):
    """Bytes of an image: all zeros but for some runs, or all data."""
    size = draw(sizes)
    if draw(st.integers(0, 9)) == 0:
        return b'\xa5' * size
    data = bytearray(size)
    runs = draw(st.lists(st.tuples(
        st.integers(0, max(0, size - 1)),
        st.sampled_from([1, 512, 4096, BLOCK, BLOCK + 1, 20 * BLOCK,
                         extents.REQUEST]),
        st.integers(1, 255)), max_size=8))
    for start, length, value in runs:
        stop = min(size, start + length)
        data[start:stop] = bytes([value]) * (stop - start)
    return bytes(data)
