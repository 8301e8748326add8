"""The data plane's endpoints: each file names its paths, its operation and its dialect."""
