"""What long work on real machines needs, and checks of arguments.

`checkpoints` saves and resumes a training. `progress` shows how far the work is. `files` writes files completely or not
at all and locks folders. `saved_settings` keeps the settings of saved work beside it. `command` runs a program that was
started from a shell, and `errors` reports in one line why it failed. `checks` validates arguments, and `optional`
imports packages that jaxdistill does not depend on. `streams` converts random keys of every kind to Threefry keys and
draws from them, and `surroundings` lists what else decides the numbers of a run. `products` multiplies arrays in full
precision.
"""
