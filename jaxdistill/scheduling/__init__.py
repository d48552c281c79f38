"""Which student runs in which lane, and when.

`task` describes the students that one program trains. `block` fills its lanes with them, `pool` runs blocks on every
device, `chunks` chooses how long a call of the engine runs, and `forecast` estimates the time left.
"""
