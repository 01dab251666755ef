import json
import logging

import pytest

from vega3d.pipeline.texts import (
    JsonFormatter,
    fixed_text,
    on_page,
    printable,
    shown_url,
    tell_some,
    without_secrets,
)

SECRET = "http://user:p4ss@host:8000/data/a.tar?X-Amz-Signature=abc#x"


def test_urls_lose_their_secrets_and_nothing_else() -> None:
    assert shown_url(SECRET) == "http://host:8000/data/a.tar"
    assert shown_url("s3://bucket/a b@c.tar") == "s3://bucket/a b@c.tar"
    assert shown_url("/a?b#c@d") == "/a?b#c@d"
    told = without_secrets(f"reading '{SECRET}' (and {SECRET}): no; s3://b/k is whole")
    assert told == (
        "reading 'http://host:8000/data/a.tar' (and http://host:8000/data/a.tar): no; "
        "s3://b/k is whole"
    )
    assert without_secrets("https://token@host/x") == "https://host/x"
    assert without_secrets("a@b.com: 3 of 4?") == "a@b.com: 3 of 4?"


def test_nothing_reaches_a_terminal_that_it_would_act_upon() -> None:
    assert printable("a\x1b[2J\rb\tc\x07") == "a\\x1b[2J\\rb\\tc\\x07"
    assert printable("\u202e\udcff\x9b") == "\\u202e\\udcff\\x9b"
    assert printable("gr\u00fc\u00df \u6f22\nnext") == "gr\u00fc\u00df \u6f22\nnext"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "no image in <_io.BytesIO object at 0x7f0c>",
            "no image in <_io.BytesIO object at 0x7fb1>",
        ),
        ("GET took 12.5ms, 3 tries", "GET took 1.25 s, 3 tries"),
        ("s: /mnt/a/x/tars/0.tar at byte 5: cut", "s: /home/u/0.tar at byte 5: cut"),
        ("s: http://u:p@h1/x/0.tar?k=1: gone", "s: s3://other/0.tar: gone"),
        ("s: /data/s/color/0.jpg: bad", "s: /else where/s/color/0.jpg: bad"),
        ("<AVFrame [x] at 0x7fb1c0> is odd", "<AVFrame [x] at 0x7aa120> is odd"),
    ],
)
def test_the_same_fault_gives_the_same_text(one: str, other: str) -> None:
    roots = ["/data", "/else where/"]
    assert fixed_text(one, roots) == fixed_text(other, roots)


def test_what_a_user_needs_stays() -> None:
    told = (
        "hall/003/view 12: depth is 480x640, RGB 968x1296 (1/2); resize depth in the reader, "
        "or and/or --fit pad; K is [[585.0, 0.0], [0.0, 585.0]], 3 of 4 views, at 16:9"
    )
    assert fixed_text(told) == told
    assert fixed_text("/d/s/color/0.jpg must exist", ["/d"]) == "s/color/0.jpg must exist"
    assert fixed_text("a\nb\x1b[0m\udcff") == "a b\\x1b[0m\\udcff"


def test_a_page_keeps_its_own_spaces_between_numbers_and_units() -> None:
    assert on_page("5\N{NO-BREAK SPACE}cm\x1b") == "5\N{NO-BREAK SPACE}cm\\x1b"


def test_a_json_line_says_what_it_is_about() -> None:
    record = logging.LogRecord(
        "vega3d.x", logging.WARNING, "f", 1, "no %s", ("http://u:p@h/",), None
    )
    record.unit, record.scene = 3, "hall\x1b"
    line = json.loads(JsonFormatter("%(message)s").format(record))
    assert (line["unit"], line["scene"]) == (3, "hall\\x1b")
    assert (line["level"], line["message"]) == ("WARNING", "no http://h/")


def test_what_is_not_shown_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    tell_some(["a", "b"], 2)
    assert capsys.readouterr().err == "a\nb\n"
    tell_some(["a", "b", "c", "d"], 2)
    assert capsys.readouterr().err == "a\nb\nand 2 more; the JSON has all\n"
