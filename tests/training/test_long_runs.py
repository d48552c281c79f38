"""What grows with the length of a run: nothing; and what is said about the time left."""

import os

import jax
import pytest

import jaxdistill
from jaxdistill import teachers
from jaxdistill.scheduling import block, chunks

WORLDS = jaxdistill.sample_mdps(jax.random.key(0), 40, num_rows=6, num_cols=6, p_plus10=0.1)
TEACHER = teachers.optimal(WORLDS)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's count of pages")
def test_memory_is_flat_over_a_thousand_chunks(monkeypatch, tmp_path):
    """From chunk 300 to chunk 1500, with saves on the way: less than 10 MB, 8 kB a chunk."""
    monkeypatch.setattr(chunks, "_CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(chunks, "_FEWEST", 64)
    advance, seen = block.Block.advance, []

    def counted(self):
        advance(self)
        seen.append(resident_bytes())

    monkeypatch.setattr(block.Block, "advance", counted)
    with jaxdistill.resumable(tmp_path / "run", seconds=0.5):
        jaxdistill.train(
            jax.random.key(1),
            WORLDS,
            TEACHER,
            ["baseline", "on_policy_distill"],
            num_iterations=15000,
            num_checkpoints=2,
        )
    assert len(seen) > 1500, len(seen)
    assert max(seen[1400:1500]) - max(seen[200:300]) < 10e6
