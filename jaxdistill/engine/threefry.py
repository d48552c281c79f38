"""A counter-based random stream for each student: Threefry-2x32 with 20 rounds, unrolled so that XLA can fuse it.

`jax.random.bits` runs the same cipher, but as a loop of small kernels that costs more than the rest of a tick. A draw
depends only on the key of its stream and on its position in the stream, which is a counter.
"""

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def random_bits(key: jax.Array, counter: jax.Array, stream: int | jax.Array = 0) -> tuple[jax.Array, jax.Array]:
    """Two independent words of 32 random bits.

    Args:
      key: uint32 [2], the key of the stream (`jax.random.key_data` of a threefry key).
      counter: uint32 [], the position in the stream.
      stream: uint32 [], the second half of the position. Draws for different purposes use different constants, so that
        they are independent.

    Returns:
      Two uint32 [] words, bit for bit those of `jax.extend.random.threefry_2x32(key, [counter, stream])`.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x0 = jnp.asarray(counter, jnp.uint32) + schedule[0]
    x1 = jnp.asarray(stream, jnp.uint32) + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + schedule[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1


def uniform(bits: jax.Array) -> jax.Array:
    """A uniform float32 in [0, 1 - 2^-23] from 32 random bits, of which 23 are used.

    With more of them, `uniform(bits) * total < total` would not always hold in float32.
    """
    return (bits >> np.uint32(9)).astype(jnp.float32) * np.float32(2.0**-23)
