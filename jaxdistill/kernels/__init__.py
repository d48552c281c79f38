"""The engine's tick as a kernel: the jaxpr of one lane becomes C, which a thread runs for each lane.

`lane` traces the ticks of one lane, and `translation` writes them as the body of a C function. `walk` is the walk over
the equations. The primitives are in tables: `primitives` has those that compute with entries, `rearranging` those that
only move them, `reductions` those that combine them, `indexing` those that reach entries by a number, and `memory` the
reads and writes of rows. `values` says what an array becomes, and `writer` collects lines. `source` makes the whole
source, in C or in CUDA C++. A `toolchain` compiles and runs it: `cuda` on a GPU, `native` on the processor, for tests;
`choice` says which one a device has. `code_files` keeps compiled kernels on disk, and `launch` runs kernels from inside
`jax.jit`.
"""
