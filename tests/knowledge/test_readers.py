"""Real files in many formats and encodings, whole and broken, to text."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import zlib
from pathlib import Path

import pytest

from knowledge.readers import SkippedError, read, sandbox

RUSSIAN = "Винтовой принтер построил в своём сарае мастер, о котором никто не помнит. " * 4
GERMAN = "Größere Schrauben aus Holz würde man heute fräsen; für ältere gäbe es überall Käufer. " * 4
JAPANESE = "木製のねじを印刷する機械は、誰も覚えていない職人が小屋で作ったものである。" * 6


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "utf-8"),
        (GERMAN, "utf-8-sig"),
        (GERMAN, "utf-16"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-16-be"),
        (GERMAN, "utf-32"),
        (GERMAN, "latin-1"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "utf-16"),
        (JAPANESE, "shift_jis"),
        ("x" + f"{JAPANESE}\n" * 400, "shift_jis"),
        (JAPANESE, "utf-8"),
    ],
)
def test_encodings(text: str, encoding: str) -> None:
    assert read("a.txt", text.encode(encoding)).content == text


def test_line_ends_and_empty_files() -> None:
    assert read("a.py", b"a\r\nb\rc\n").content == "a\nb\nc\n"
    for name in ("a.txt", "a.md", "a.csv", "a.json", "a.jsonl", "a.html"):
        assert read(name, b"").content.strip() == ""


def test_a_long_text_whose_only_umlaut_is_at_the_end() -> None:
    data = b"plain words " * 20_000 + "Größe".encode("latin-1")
    assert read("a.txt", data).content.endswith("Größe")
    cut = b"x" * 65_535 + "é".encode() + b"\xff"  # a sample of 64 KiB ends within a character
    assert "x" * 65_535 in read("a.txt", cut).content


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 10,
        zlib.compress(b"x" * 100_000) * 9,
        b"\x7fELF" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(64),
    ],
    ids=["all bytes", "compressed", "executable", "picture"],
)
def test_binary_is_skipped_whatever_its_name(data: bytes) -> None:
    for name in ("a.txt", "a.md", "a.csv", "a.json", "noname"):
        with pytest.raises(SkippedError, match=r"binary|encoding"):
            read(name, data)


def test_a_byte_order_mark_that_lies() -> None:
    with pytest.raises(SkippedError, match="utf-8-sig"):
        read("a.txt", b"\xef\xbb\xbf" + b"\xff\xfe\xff")


def test_csv_rows_carry_their_columns() -> None:
    data = b'name;year\nThom Rhubarb;1877\n"Ann ""the"" Bolt";1880\n'
    assert read("a.csv", data).content == 'name: Thom Rhubarb\nyear: 1877\n\nname: Ann "the" Bolt\nyear: 1880'
    assert read("a.tsv", b"a\tb\n1\t2\n").content == "a: 1\nb: 2"
    assert read("a.csv", b"a,b\n1,2,3\n\n,\n").content == "a: 1\nb: 2\n3"
    assert read("a.csv", b"\n\na,b\n1,2\n").content == "a: 1\nb: 2"


def test_csv_with_long_fields_and_wrong_quotes_is_whole() -> None:
    long = "x" * 200_000  # the parser's own limit is 131,072
    assert read("a.csv", f'a,b\n"{long}",1\n3,4\n'.encode()).content == f"a: {long}\nb: 1\n\na: 3\nb: 4"
    rows = "".join(f"{number},weir {number}\n" for number in range(20_000))
    for stray in ('"5 inch pipe,never closed', '"5" pipe,and "more"'):
        text = read("a.csv", f"number,place\n1,before\n{stray}\n{rows}".encode()).content
        assert text.startswith("number: 1\nplace: before\n\n")
        assert all(f"weir {number}\n" in f"{text}\n" for number in range(20_000))


def test_json_values_carry_their_names() -> None:
    value = [{"name": "Thom", "made": {"what": ["screws", "bolts"], "year": 1877}}, {"name": "Ann", "alive": None}]
    expected = "name: Thom\nmade.what: screws\nmade.what: bolts\nmade.year: 1877\n\nname: Ann"
    assert read("a.json", json.dumps(value).encode()).content == expected
    lines = b"\n".join(json.dumps(item).encode() for item in value)
    assert read("a.jsonl", lines + b"\n\n").content == expected
    assert read("a.json", b'"just text"').content == "just text"
    assert read("a.json", b'{"half": "\\ud83d of \\ud83d\\udc4d"}').content == "half: ? of 👍"


def test_rows_end_at_line_feeds_alone() -> None:
    value = "Thom\u2028Rhubarb\x85of\x0cSaltby Cross"
    lines = [json.dumps({"name": value, "year": year}, ensure_ascii=False) for year in (1877, 1880)]
    assert (
        read("a.jsonl", "\r\n".join(lines).encode()).content
        == f"name: {value}\nyear: 1877\n\nname: {value}\nyear: 1880"
    )
    assert read("a.csv", f"name,year\r\n{value},1877\r\n".encode()).content == f"name: {value}\nyear: 1877"
    assert read("a.csv", b'name,year\n"two\nlines",1877\n').content == "name: two\nlines\nyear: 1877"


def test_names_that_are_repeated_make_no_text_without_bound() -> None:
    long = "name " * 400
    for name, text in (
        ("a.json", json.dumps({long: [1] * 1000})),
        ("a.jsonl", json.dumps({long: [1] * 1000})),
        ("a.csv", "\n".join([f"{long},b", *["1,2"] * 1000])),
    ):
        with pytest.raises(SkippedError, match="more than 32 times as long as the file") as caught:
            read(name, text.encode())
        assert caught.value.lasting
    columns = "temperature at the northern gauge in degrees,pressure there in hectopascal"
    rows = "1,2\n" * 2000
    assert read("a.csv", f"{columns}\n{rows}".encode()).content.count("northern gauge") == 2000


def test_what_is_not_quite_json_is_text() -> None:
    for data in (b"// a comment\n{}", b"[" * 100_000, b'{"a": 1'):
        assert read("a.json", data).content == data.decode()


def test_html_keeps_structure_and_drops_what_is_no_text() -> None:
    data = """<html><head><title>Screws</title><style>p {}</style></head><body><nav>Home</nav><h2>Thom &amp; Co</h2>
    <p>He <b>built</b> <a href="x">it</a>.</p><script>alert(1)</script><ul><li>one</li><li>two</li></ul></body>"""
    text = read("a.html", data.encode())
    assert text.markdown
    assert text.content == "# Screws\n\n## Thom & Co\n\nHe **built** it.\n\n- one\n- two"


def test_html_of_a_page_that_is_one_form() -> None:
    page = """<html><body><form id="aspnetForm" method="post"><input type="hidden" name="__VIEWSTATE" value="dDw">
    <h1>Leave</h1><p>Thirty days a year.</p><label>Year</label><select><option>1877</option></select>
    <textarea>draft</textarea><button>Search</button></form></body></html>"""
    assert read("a.html", page.encode()).content == "# Leave\n\nThirty days a year.\n\nYear"


@pytest.mark.parametrize(
    "page", [b"<html><body><div id=root></div><script>run()</script></body></html>", b"<p>", b"<nav>Home</nav>"]
)
def test_html_without_text_is_skipped(page: bytes) -> None:
    with pytest.raises(SkippedError, match="it holds no text"):
        read("a.html", page)


def test_html_in_the_encoding_that_it_names() -> None:
    page = f'<html><head><meta charset="koi8-r"></head><body><p>{RUSSIAN}</p></body></html>'
    assert RUSSIAN.strip() in read("a.htm", page.encode("koi8-r")).content


def test_broken_html_is_read_or_skipped() -> None:
    for data in (b"<p" * 50_000, b"<div>" * 100_000 + b"deep", bytes(range(256)) * 50):
        with contextlib.suppress(SkippedError):
            read("a.html", data)
    assert read("a.html", b"<p>still working").content == "still working"


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode())
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write("".join(f"{offset:010} 00000 n \n" for offset in offsets).encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def test_pdf() -> None:
    assert read("a.PDF", pdf("Thom Rhubarb built it.", "", "Page three.")).content == (
        "Thom Rhubarb built it.\n\nPage three."
    )
    with pytest.raises(SkippedError, match="no text"):
        read("a.pdf", pdf(""))
    for data in (b"", b"no pdf", pdf("text")[:100]):
        with pytest.raises(SkippedError):
            read("a.pdf", data)


def test_the_sandbox_has_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox._end()
    monkeypatch.setenv("KNOWLEDGE_URL", "postgresql://user:secret@host/knowledge")
    assert read("a.html", b"<p>one").content == "one"
    assert sandbox._process is not None
    environment = Path(f"/proc/{sandbox._process.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" in environment
    assert b"secret" not in environment


def test_a_file_that_takes_too_long_or_kills_its_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    read("a.html", b"warm")
    monkeypatch.setattr(sandbox, "TIME_LIMIT", 0.3)
    with pytest.raises(SkippedError, match=r"longer than 0\.3 s") as caught:
        sandbox.call("time", "sleep", 60)  # type: ignore[arg-type]
    assert not caught.value.lasting
    monkeypatch.undo()
    with pytest.raises(SkippedError, match="crashed") as caught:
        sandbox.call("os", "_exit", 3)  # type: ignore[arg-type]
    assert caught.value.lasting
    with pytest.raises(SkippedError, match="crashed") as caught:  # as the system does when memory is short
        sandbox.call("signal", "raise_signal", signal.SIGKILL)  # type: ignore[arg-type]
    assert not caught.value.lasting
    with pytest.raises(SkippedError, match="more than 2048 MiB"):
        sandbox.call("builtins", "bytearray", 3 << 30)  # type: ignore[arg-type]
    with pytest.raises(SkippedError, match=r"needs the package nothing_like_it.*lucid-llm\[documents\]"):
        sandbox.call("nothing_like_it", "read", b"")
    assert read("a.html", b"<p>and again").content == "and again"
