"""The page of the metrics is generated from their table."""

from tests.support import metrics_page


def test_page_is_generated_from_the_table() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page()
