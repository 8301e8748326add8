"""The log of an outage, in a process that meets it again and again."""

import logging

import pytest
from django.db import IntegrityError, OperationalError

from tenants.database import OutageLog


def test_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog()

    @log.note_outage()
    def run(error: Exception | None) -> None:
        if error is not None:
            raise error

    with caplog.at_level(logging.INFO):
        for error in (None, OperationalError("disk I/O error\nDETAIL"), OperationalError("again"), None, None):
            run(error)
    assert [record.getMessage() for record in caplog.records] == ["the database is away", "the database is back"]
    assert caplog.records[0].__dict__["why"] == "disk I/O error"


def test_any_other_error_is_raised() -> None:
    with pytest.raises(IntegrityError), OutageLog().note_outage():
        raise IntegrityError
