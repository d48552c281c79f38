"""Files, processes and progress: what long work on real machines needs, and checks of what users pass in."""
