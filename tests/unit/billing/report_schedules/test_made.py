"""The file of a scheduled report, as large as a mail may carry."""

from billing.report_schedules.made import MAX_FILE_BYTES, join_file


def test_a_file_is_whole_or_not_sent() -> None:
    half = b"x" * (MAX_FILE_BYTES // 2)
    assert join_file(iter([half, half])) == half + half
    assert join_file(iter([half, half, b"x"])) is None
    assert join_file(iter([])) == b""
