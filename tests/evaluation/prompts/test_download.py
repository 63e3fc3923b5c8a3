"""Linked files come from a real server on loopback: resumed, shown, cleaned up, and kept where they belong."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chatvec_lab.evaluation.prompts import download, read_prompts

ROWS = "".join(f'{{"prompt_id": "p{i}", "prompt": "question {i}"}}\n' for i in range(4000)).encode()


class Files:
    """A server of one file that may break off, change it, forget ranges, or refuse."""

    def __init__(self):
        self.content, self.etag, self.ranges, self.breaks, self.status = ROWS, '"one"', True, None, 200
        self.headers = {}  # instead of its own
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
                content, start, status = outer.content, 0, outer.status
                same = self.headers.get("If-Range") == outer.etag
                if outer.ranges and same and (asked := self.headers.get("Range")):
                    start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
                self.send_response(status)
                if outer.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                    self.send_header("ETag", outer.etag)
                own = {"Content-Length": str(len(content) - start)}
                if status == 206:
                    own["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                for name, value in (own | outer.headers).items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[start : outer.breaks])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "a" / "b" / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    made = Files()
    yield made
    made.server.shutdown()
    made.server.server_close()


def stored(tmp_path):
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "path",
    ["/../../../x.jsonl", "/..%2f..%2f..%2fx.jsonl", "/%2e%2e/%2e%2e/x.jsonl", "/a//../..//x.jsonl", "/..\\..\\x.jsonl",
     "/x.jsonl?../../..", "/x.jsonl#/../../../y"],
)  # fmt: skip
def test_no_link_leads_out_of_the_cache(files, tmp_path, path):
    link = f"http://{files.address}{path}"
    table = read_prompts(link, language="en", limit=2)
    assert table.turns.tolist() == [["question 0"], ["question 1"]]
    (file,) = stored(tmp_path)
    assert (tmp_path / "a" / "b" / "home" / "chatvec_lab") in file.parents and file.suffix == ".jsonl"
    asked = len(files.asked)
    read_prompts(link, language="en")
    assert len(files.asked) == asked, "the second time it is there"


def test_links_with_one_name_are_kept_apart(files):
    files.content = b'{"prompt": "one"}\n'
    one = download.fetch(f"http://{files.address}/a/x.jsonl")
    files.content = b'{"prompt": "two"}\n'
    two = download.fetch(f"http://{files.address}/b/x.jsonl")
    assert one.read_bytes() != two.read_bytes()


def test_a_stopped_download_goes_on_where_it_stopped(files, tmp_path, capsys):
    link = f"http://{files.address}/x.jsonl"
    files.breaks = 50_000
    with pytest.raises(ConnectionError, match=r"cannot download .*x.jsonl.*50,000"):
        download.fetch(link)
    assert {path.suffix for path in stored(tmp_path)} == {".part", ".validator"}
    files.breaks = None
    assert download.fetch(link).read_bytes() == ROWS
    assert [asked for _, asked, _ in files.asked] == [None, "bytes=50000-"]
    assert [path.name for path in stored(tmp_path)] == ["x.jsonl"], "no half stays"


def test_a_file_that_changed_meanwhile_is_fetched_anew(files, tmp_path):
    link = f"http://{files.address}/x.jsonl"
    files.breaks = 50_000
    with pytest.raises(ConnectionError):
        download.fetch(link)
    files.breaks, files.etag, files.content = None, '"two"', ROWS[::-1]
    assert download.fetch(link).read_bytes() == ROWS[::-1]
    assert [path.name for path in stored(tmp_path)] == ["x.jsonl"]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"one"'), (True, 'W/"weak"'), (True, "")])
def test_a_half_that_cannot_be_resumed_is_removed(files, tmp_path, ranges, etag):
    link = f"http://{files.address}/x.jsonl"
    files.breaks, files.ranges, files.etag = 50_000, ranges, etag
    with pytest.raises(ConnectionError):
        download.fetch(link)
    assert stored(tmp_path) == []
    files.breaks = None
    assert download.fetch(link).read_bytes() == ROWS


def test_a_damaged_half_is_no_beginning(files, tmp_path):
    link = f"http://{files.address}/x.jsonl"
    files.breaks = 50_000
    with pytest.raises(ConnectionError):
        download.fetch(link)
    (part,) = [path for path in stored(tmp_path) if path.suffix == ".part"]
    part.write_bytes(ROWS + ROWS)  # longer than the file
    files.breaks, files.etag = None, '"two"'
    assert download.fetch(link).read_bytes() == ROWS


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_names_the_address_without_user_and_leaves_nothing(files, tmp_path, status):
    files.status = status
    with pytest.raises(ConnectionError) as caught:
        download.fetch(f"http://me:secret@{files.address}/x.jsonl?key=secret")
    assert "secret" not in str(caught.value) and f"answered {status}" in str(caught.value)
    assert caught.value.__cause__ is None and stored(tmp_path) == []
    assert files.asked[0][2].startswith("Basic "), "the server is told who asks"


@pytest.mark.parametrize(
    "link", ["http://[::1/x.jsonl", "http://h:99999/x.jsonl", "http://127.0.0.1:9/x.jsonl", "http:///x.jsonl"]
)
def test_what_is_no_address_ends_in_one_sentence(files, tmp_path, link):
    with pytest.raises(ConnectionError, match="cannot download"):
        download.fetch(link)
    assert stored(tmp_path) == []


def test_a_file_without_end_is_left(files, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1000)
    with pytest.raises(ConnectionError, match="1,000 at most"):
        download.fetch(f"http://{files.address}/x.jsonl")
    assert stored(tmp_path) == []


def test_two_at_once_fetch_it_once(files, tmp_path):
    link = f"http://{files.address}/x.jsonl"
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download.fetch(link).read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ROWS] * 4 and [path.name for path in stored(tmp_path)] == ["x.jsonl"]


def half(files, name="rows.jsonl"):
    """A link to a file of which half is in the cache."""
    files.breaks = len(ROWS) // 2
    with pytest.raises(ConnectionError):
        download.fetch(f"http://{files.address}/{name}")
    files.breaks = None
    return f"http://{files.address}/{name}"


@pytest.mark.parametrize(
    "sent", ["bytes 0-9/10", f"bytes {len(ROWS) // 2 + 7}-{len(ROWS) - 1}/{len(ROWS)}", "nonsense", None]
)
def test_another_part_than_the_one_asked_for_is_never_taken_for_the_file(files, tmp_path, sent):
    link = half(files)
    files.headers = {"Content-Range": sent}
    with pytest.raises(ConnectionError, match="the server sent another part than the one from byte"):
        download.fetch(link)
    assert stored(tmp_path) == []
    files.headers = {}
    assert download.fetch(link).read_bytes() == ROWS


def test_a_part_of_a_file_of_unknown_size_completes_it(files):
    link = half(files)
    files.headers = {"Content-Range": f"bytes {len(ROWS) // 2}-{len(ROWS) - 1}/*"}
    assert download.fetch(link).read_bytes() == ROWS


def test_a_size_that_lies_leaves_no_file(files, tmp_path):
    link = f"http://{files.address}/rows.jsonl"
    files.headers, files.ranges = {"Content-Length": str(len(ROWS) + 5)}, False
    with pytest.raises(ConnectionError):
        download.fetch(link)
    assert stored(tmp_path) == []


def test_a_packed_file_is_unpacked_and_never_resumed(files, tmp_path):
    files.content, files.headers = gzip.compress(ROWS), {"Content-Encoding": "gzip"}
    assert download.fetch(f"http://{files.address}/rows.jsonl").read_bytes() == ROWS
    files.breaks = 100
    with pytest.raises(ConnectionError):
        download.fetch(f"http://{files.address}/more.jsonl")
    assert [path.name for path in stored(tmp_path)] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "ftp://me:pass@h/x.jsonl", "s3://b/x.jsonl", "hf://datasets/a/b.jsonl"]
)
def test_an_address_of_another_kind_is_named(link):
    with pytest.raises(ValueError, match="an address with http or https, and this has") as error:
        read_prompts(link, language="en")
    assert "pass@" not in str(error.value)


def test_the_schemes_capitals_do_not_matter(files):
    assert len(read_prompts(f"HTTP://{files.address}/rows.jsonl", language="en")) == 4000
