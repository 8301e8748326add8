"""The tests of Tollgate, the fakes they talk to and the benchmark."""
