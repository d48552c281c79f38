"""A long run needs no more memory than a short one."""

import itertools
import os

import jax
import pytest

import jaxdistill
from jaxdistill import teachers
from jaxdistill.runtime import checkpoints
from jaxdistill.scheduling import group
from tests.lockstep import lockstep

WORLDS = jaxdistill.sample_mdps(jax.random.key(0), 40, num_rows=6, num_cols=6, p_plus10=0.1)
TEACHER = teachers.optimal(WORLDS)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's count of pages")
def test_memory_is_flat_over_a_thousand_chunks(monkeypatch, tmp_path):
    """From chunk 300 to chunk 1500, before students are evaluated, with a save at every 50th: less than 10 MB."""
    end_chunk, sizes, polls = group.Group._end_chunk, [], itertools.count(1)

    def measured(self):
        end_chunk(self)
        sizes.append(resident_bytes())

    monkeypatch.setattr(group.Group, "_end_chunk", measured)
    monkeypatch.setattr(checkpoints.Store, "is_due", lambda self: next(polls) % 50 == 0)
    with lockstep(num_ticks=64), jaxdistill.resumable(tmp_path / "run"):
        jaxdistill.train(
            jax.random.key(1),
            WORLDS,
            TEACHER,
            ["baseline", "on_policy_distill"],
            num_iterations=6000,
            num_checkpoints=2,
        )
    assert len(sizes) > 1500, len(sizes)
    growth = max(sizes[1400:1500]) - max(sizes[200:300])
    assert growth < 10e6, growth
