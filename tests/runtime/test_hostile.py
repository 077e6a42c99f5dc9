"""Files made to harm: playlists, scripts, references to other files, and links."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from taemi_runtime.errors import MediaError
from taemi_runtime.inputs import expand
from taemi_runtime.media import read_clip
from tests.runtime.made_clips import (
    PREPROCESSING,
    SAME_CODE,
    Recipe,
    make,
)
from tests.runtime.refusals import refuse


@pytest.fixture
def server():
    """A web server that counts its visitors."""
    visitors: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visitors.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    running.visitors = visitors
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "hls_master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{target}\n",
    "hls_key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:2,\n{target}\n',
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    ),
    "smil": '<smil><body><video src="{target}"/></body></smil>',
    "sdp": "v=0\no=- 0 0 IN IP4 0.0.0.0\ns=x\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{target}\n",
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "svg": (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        '<image xlink:href="{target}" width="64" height="48"/></svg>'
    ),
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8"])
@pytest.mark.parametrize("where", ["name", "file", "http"])
def test_playlists_and_scripts_are_refused_and_follow_nothing(
    kind: str, suffix: str, where: str, server, tmp_path: Path
) -> None:
    # The file that they name is a good clip: following it would succeed.
    clip = make(tmp_path / "clip.ts", Recipe(seconds=0.2))
    port = server.server_address[1]
    target = {"name": clip.name, "file": clip.as_uri(), "http": f"http://127.0.0.1:{port}/clip.ts"}[where]
    path = tmp_path / f"list.{suffix}"
    path.write_text(PLAYLISTS[kind].format(target=target))
    refuse(path)
    assert server.visitors == []


@pytest.mark.parametrize("start", ["#EXTM3U\n", "ffconcat version 1.0\n"])
def test_a_playlist_in_front_of_media_is_no_clip(start: str, tmp_path: Path) -> None:
    make(tmp_path / "clip.mp4", Recipe(seconds=0.2))
    path = tmp_path / "both.mp4"
    path.write_bytes(start.encode() + b"#EXTINF:2,\nclip.mp4\n" + (tmp_path / "clip.mp4").read_bytes())
    refuse(path)


def opened_by(path: Path) -> set[str]:
    """Read a clip in a process of its own and return the files that were opened below its folder."""
    code = (
        "import sys; from pathlib import Path; from taemi_runtime.media import read_clip\n"
        "from taemi_runtime.preprocessing import Preprocessing\n"
        "from taemi_runtime.errors import MediaError\n"
        "try: read_clip(Path(sys.argv[1]), Preprocessing())\n"
        "except MediaError: pass\n"
    )
    before = {item: item.stat().st_atime_ns for item in path.parent.iterdir()}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, env=SAME_CODE)
    return {item.name for item, at_ns in before.items() if item.stat().st_atime_ns != at_ns}


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", len(content) + 8, kind) + content


def alias(target: Path) -> bytes:
    """A QuickTime alias to a file, as FFmpeg parses it (libavformat/mov.c, mov_read_dref)."""
    name = target.name.encode()
    path = str(target).encode()
    head = bytes(10) + b"\x04disk".ljust(28, b"\0") + bytes(12)
    head += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    items = struct.pack(">hH", 2, len(path)) + path.ljust(len(path) + len(path) % 2, b"\0")
    items += struct.pack(">hH", 18, len(path)) + path.ljust(len(path) + len(path) % 2, b"\0")
    return box(b"alis", bytes(4), head, items, struct.pack(">hh", -1, 0))


@pytest.mark.parametrize("kind", ["url ", "alis"])
def test_media_in_another_file_is_not_read(kind: str, tmp_path: Path) -> None:
    whole = make(tmp_path / "secret.mp4", Recipe(seconds=1, rate_hz=0))
    content = whole.read_bytes()
    entry = box(b"url ", bytes(4), whole.as_uri().encode() + b"\0") if kind == "url " else alias(whole)
    inside = box(b"url ", b"\0\0\0\1")
    assert content.count(inside) == 1
    at = content.index(b"moov") - 4
    assert content.index(b"mdat") < at  # so that nothing that is pointed to moves
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = content.index(parent) - 4
        size = struct.unpack(">I", content[place : place + 4])[0] + len(entry) - len(inside)
        content = content[:place] + struct.pack(">I", size) + content[place + 4 :]
    content = content.replace(inside, entry)
    if kind == "alis":
        # Without a sample of its own, every frame could only come from the other file.
        content = (
            content[: content.index(b"mdat") + 4] + bytes(at - content.index(b"mdat") - 4) + content[at:]
        )
    path = tmp_path / "pointing.mp4"
    path.write_bytes(content)
    try:
        clip = read_clip(path, PREPROCESSING)
    except MediaError:
        clip = None
    if kind == "alis":
        assert clip is None or clip.frames is None
    os.utime(whole, (1, 1))
    assert opened_by(path) <= {"pointing.mp4"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "pipe-link.mp4").symlink_to(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    for name in ("pipe.mp4", "zero.mp4", "pipe-link.mp4"):
        assert refuse(tmp_path / name).found == "it is no ordinary file"
    assert refuse(tmp_path / "folder.mp4").found == "it is a folder"
    for name in ("gone.mp4", "circle.mp4"):
        assert refuse(tmp_path / name).found == "it is a link to nothing"
    assert refuse(Path("/dev/stdin")).found


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    outside = make(tmp_path / "private.mp4", Recipe(seconds=0.2))
    folder = tmp_path / "given"
    folder.mkdir()
    make(folder / "own.mp4", Recipe(seconds=0.2))
    (folder / "away.mp4").symlink_to(outside)
    (folder / "near.mp4").symlink_to(folder / "own.mp4")
    (folder / "up").symlink_to(tmp_path)
    found = {clip.path.name: clip.error for clip in expand([str(folder)])}
    assert set(found) == {"own.mp4", "away.mp4", "near.mp4"}
    assert (found["own.mp4"], found["near.mp4"]) == ("", "")
    assert "leads out of the folder" in found["away.mp4"]
    # Whoever names a link means what it leads to.
    assert [clip.error for clip in expand([str(folder / "away.mp4")])] == [""]
