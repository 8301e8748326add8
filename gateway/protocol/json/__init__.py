"""JSON as the wire has it: the strict reader of requests, and what is edited without parsing it."""
