"""The readers and writers of the data path: group commit, spool and the databases' own drivers."""
