"""Start, listening, drain and end of a process."""
