"""Sums of products of arrays in full precision, on every device and under every setting of JAX.

By default a GPU rounds the factors of a float32 product to 10 bits (TensorFloat-32), and jax_default_matmul_precision
may ask for less.
"""

import functools

import jax
import jax.numpy as jnp

einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
