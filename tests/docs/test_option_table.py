"""The page on detectron2 lists every option of MODEL.BIT."""

import option_table


def test_the_page_holds_the_table_of_the_code():
    text = option_table.PAGE.read_text(encoding="utf-8")
    assert text == option_table.filled(text), "run python tests/docs/option_table.py"


def test_every_option_has_a_meaning():
    rows = option_table.rows()
    assert len(rows) == 17
    assert all(comment.endswith((".", ")")) for _, _, comment in rows)
