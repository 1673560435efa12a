"""The model zoo lists what the code has."""

import zoo_tables


def test_the_page_holds_the_tables_of_the_code() -> None:
    text = zoo_tables.PAGE.read_text(encoding="utf-8")
    assert text == zoo_tables.filled(text), "run python tests/docs/zoo_tables.py"
