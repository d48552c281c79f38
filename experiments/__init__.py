"""The paper's experiments, one module and one command each."""
