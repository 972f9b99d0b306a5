#!/usr/bin/env python3
"""Compares wm-analyzer with the service whose diffs it makes: web-monitoring-diff, as it is installed from PyPI.

    cargo build --release
    python3 tests/compat/compare.py                 generated pairs: what CI runs
    python3 tests/compat/compare.py DIR             DIR/<pair>/a.html and b.html, as many as there are

Both get the same bytes and the same Content-Type over HTTP from this process, on loopback. For each pair:

    decision   both diff it, or both refuse it
    text       the same visible text on both sides, white space folded
    rebuild    our steps put both sources back together, character for character, and both visible texts
    numbers    the annotation follows from our steps by the formulas of the db app's analysis job
    size       our edits, in characters, are at most 1.05 times theirs (one character more is forgiven)
    links      the same links added and removed, as sets

A disagreement that is meant is listed in explained.toml with its reason; any other one makes this fail, and so does an
entry there that nothing needs any more. The peer is GPL-3.0: it is run here, and nothing of it is copied.
"""

import argparse
import codecs
import collections
import dataclasses
import hashlib
import http.server
import json
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
import tomllib
import types

import pages

HERE = pathlib.Path(__file__).resolve().parent
ROWS = ["decision", "text", "rebuild", "numbers", "size", "links"]
# The peer has no limit of its own but for the search within a diff (2 s, three of them a pair).
PEER_SECONDS = 120
OURS_SECONDS = 60
# What encoding_rs calls an encoding, where Python knows it by another name.
PYTHON_NAMES = {"windows-874": "cp874", "x-mac-cyrillic": "mac_cyrillic", "macintosh": "mac_roman", "Shift_JIS": "cp932",
                "EUC-KR": "cp949", "GBK": "gb18030", "ISO-8859-8-I": "iso8859_8"}


@dataclasses.dataclass
class Pair:
    name: str
    a: bytes
    b: bytes
    types: tuple = ("text/html", "text/html")

    @property
    def digest(self):
        return hashlib.sha256(hashlib.sha256(self.a).digest() + self.b).hexdigest()[:12]


def pairs_in(directory):
    for place in sorted(pathlib.Path(directory).iterdir()):
        if (place / "a.html").is_file() and (place / "b.html").is_file():
            yield Pair(place.name, (place / "a.html").read_bytes(), (place / "b.html").read_bytes())


# --- theirs -----------------------------------------------------------------------------------------------------------

def ask_peer(pair):
    """What the service answers, by its own decoding and its own way of calling its diffs."""
    from web_monitoring_diff import basic_diffs, html_links_diff
    from web_monitoring_diff.exceptions import UndecodableContentError, UndiffableContentError
    from web_monitoring_diff.server import server

    def response(body, content_type):
        return types.SimpleNamespace(request=types.SimpleNamespace(url="http://127.0.0.1/"), body=body,
                                     headers={"Content-Type": content_type} if content_type else {})

    a, b = response(pair.a, pair.types[0]), response(pair.b, pair.types[1])
    try:
        diffs = {name: server.caller(diff, a, b)["diff"] for name, diff in [
            ("html_text_dmp", basic_diffs.html_text_diff),
            ("html_source_dmp", basic_diffs.html_source_diff),
            ("links_json", html_links_diff.links_diff_json)]}
    except (UndecodableContentError, UndiffableContentError) as refusal:
        return {"refused": str(refusal)}
    texts = server.caller(basic_diffs.side_by_side_text, a, b)["diff"]
    return {"diffs": json.loads(json.dumps(diffs)), "texts": [texts["a_text"], texts["b_text"]]}


def within(seconds, work, argument):
    """In a process of its own, because nothing in the peer ends by itself."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: theirs.send(work(argument)), daemon=True)
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else {"refused": f"no answer within {seconds} s"}
    except EOFError:
        return {"refused": "it died"}
    finally:
        child.kill()
        child.join()


# --- ours -------------------------------------------------------------------------------------------------------------

class Bodies(http.server.ThreadingHTTPServer):
    """Serves the two bodies of one pair at a time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.pair = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, side):
        return f"http://127.0.0.1:{self.server_port}/{side}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        first = self.path == "/a"
        body, content_type = (self.server.pair.a if first else self.server.pair.b), self.server.pair.types[not first]
        self.send_response(200)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask_ours(binary, bodies, pair):
    bodies.pair = pair
    environment = {"PATH": os.environ["PATH"], "WM__FETCH__ALLOW_NETWORKS": "127.0.0.0/8"}

    def run(*more):
        return subprocess.run([binary, "diff", *more, bodies.address("a"), bodies.address("b")], env=environment,
                              capture_output=True, timeout=OURS_SECONDS, check=False)

    ran = run("-o", "json")
    try:
        answer = json.loads(ran.stdout)
    except json.JSONDecodeError:
        return {"refused": f"exit {ran.returncode}: {ran.stderr.decode(errors='replace').strip()}"}
    if answer["outcome"] != "analysed":
        reason = answer.get("skip") or answer.get("failure")
        return {"refused": reason["detail"]}
    report = answer["report"]
    if report.get("missing"):
        return {"refused": report["missing"][0]["detail"]}
    whole = json.loads(run("--whole").stdout)
    report["diffs"] = {name: diff["diff"] for name, diff in whole.items()}
    return report


# --- compared ---------------------------------------------------------------------------------------------------------

# The peer's parser turns C1 controls into U+FFFD, and keeps a byte order mark as text; nobody sees either.
UNSEEN = {odd: "\ufffd" for odd in range(0x80, 0xA0)} | {0xFEFF: None}


def fold(text):
    return " ".join(text.translate(UNSEEN).split())


def sides(steps):
    return ["".join(text for code, text in steps if code in (0, side)) for side in (-1, 1)]


def edited(steps):
    return sum(len(text) for code, text in steps if code)


def decoded(body, encoding):
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        body = body.removeprefix(mark)
    return body.decode(PYTHON_NAMES.get(encoding, encoding), errors="replace").replace("\0", "\ufffd")


def links(steps):
    """Removed and added links; what was changed is both, and what is both is neither."""
    gone, come = set(), set()

    def note(where, text, href):
        where.add((fold(text).lower(), fold(href)))

    for code, link in steps:
        if code == 100:
            before, after = sides(link["text"])
            note(gone, before, link["hrefs"][0])
            note(come, after, link["hrefs"][1])
        elif code:
            note(gone if code < 0 else come, link["text"], link["href"])
    return gone - come, come - gone


def in_order(step):
    """A step with its keys as the service writes them: JSON for people has them sorted."""
    code, what = step
    return [code, what if isinstance(what, str) else {key: what[key] for key in ("text", "href", "hrefs") if key in what}]


def as_rails_writes(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for odd in "&<>\u2028\u2029":
        text = text.replace(odd, f"\\u{ord(odd):04x}")
    return text


def rounded(number):
    return math.floor(number * 10_000 + 0.5) / 10_000


def expected_numbers(diffs):
    """The 12 fields, from the steps alone."""
    numbers, content, extra = {}, 0.0, 0.0
    for name, field in [("html_source_dmp", "source"), ("html_text_dmp", "text"), ("links_json", "links")]:
        steps = diffs[name]
        changes = [in_order(step) for step in steps if step[0]]
        weights = [(code, len(what)) for code, what in steps]
        changed, total = sum(weight for code, weight in weights if code), sum(weight for _, weight in weights)
        ratio = rounded(changed / total) if total else 0.0
        digest = hashlib.sha256(as_rails_writes(changes).encode("utf-8", "surrogatepass")).hexdigest()
        numbers |= {f"{field}_diff_hash": digest, f"{field}_diff_count": len(changes), f"{field}_diff_ratio": ratio}
        if field != "links":
            numbers[f"{field}_diff_length"] = changed
        factor = math.log(1 + (math.e - 1) * ratio)
        if changes and field == "source":
            content = 0.1 * factor
        elif changes and field == "text":
            content = 0.1 + 0.3 * factor
        elif changes:
            extra = 0.05 + 0.2 * factor
    return numbers | {"priority": rounded(content + extra)}


def disagreements(pair, theirs, ours):
    """(row, what differs), for each row that does not agree."""
    if ("refused" in theirs) != ("refused" in ours):
        yield "decision", f"theirs: {theirs.get('refused', 'diffed')}; ours: {ours.get('refused', 'diffed')}"
    if "refused" in theirs or "refused" in ours:
        return
    mine, other = ours["diffs"], theirs["diffs"]
    absent = [name for name, steps in mine.items() if steps is None]
    if absent:
        yield "rebuild", f"too large to carry: {', '.join(absent)}"
        return
    text, source = mine["html_text_dmp"], mine["html_source_dmp"]
    for side, (said, expected) in enumerate(zip(sides(text), theirs["texts"])):
        if fold(said) != fold(expected):
            yield "text", f"{'ab'[side]}: {first_difference(fold(said), fold(expected))}"
    for side, (rebuilt, body) in enumerate(zip(sides(source), (pair.a, pair.b))):
        expected = decoded(body, ours["bodies"][side]["encoding"])
        if rebuilt != expected:
            yield "rebuild", f"{'ab'[side]}: {first_difference(rebuilt, expected)}"
    for name, steps in [("text", text), ("source", source)]:
        if any(code not in (-1, 0, 1) or not what for code, what in steps):
            yield "rebuild", f"{name}: a step that is none"
        size, bound = edited(steps), 1.05 * edited(other[f"html_{name}_dmp"])
        if size > bound + 1 or (size and not bound):
            yield "size", f"{name}: {size} characters against {edited(other[f'html_{name}_dmp'])}"
    numbers = expected_numbers(mine)
    wrong = {key: (ours["annotation"].get(key), value) for key, value in numbers.items()
             if ours["annotation"].get(key) != value}
    if wrong or len(ours["annotation"]) != 12:
        yield "numbers", f"{wrong}"
    for what, mine_set, other_set in zip(("removed", "added"), links(mine["links_json"]), links(other["links_json"])):
        if mine_set != other_set:
            yield "links", f"{what}: only ours {sorted(mine_set - other_set)[:3]}, only theirs {sorted(other_set - mine_set)[:3]}"


def first_difference(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"at {at}: ours {a[max(0, at - 10):at + 30]!r}, theirs {b[max(0, at - 10):at + 30]!r}"


# --- told -------------------------------------------------------------------------------------------------------------

def explained():
    listed = tomllib.loads((HERE / "explained.toml").read_text()).get("disagreement", [])
    return {(entry["pair"], row): entry["reason"] for entry in listed for row in entry["rows"]}


def peer_is_there():
    try:
        import web_monitoring_diff.server.server  # noqa: F401
        return True
    except Exception as why:  # its parser raises RuntimeError where two copies of libxml2 meet
        if os.environ.get("WM_REQUIRE_PEERS") == "1":
            sys.exit(f"web-monitoring-diff is required and not there: {why}")
        print("SKIPPED: no web-monitoring-diff")
        return False


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("directory", nargs="?", help="pairs to compare; without it they are generated")
    arguments.add_argument("--binary", default="target/release/wm-analyzer", help="what to ask (%(default)s)")
    arguments.add_argument("--verbose", action="store_true", help="show each disagreement, explained or not")
    chosen = arguments.parse_args()
    if not peer_is_there():
        return 0
    every = list(pairs_in(chosen.directory) if chosen.directory else (Pair(*made) for made in pages.pairs()))
    known, bodies = explained(), Bodies()
    counts, unexplained, used = collections.Counter(), [], set()
    edits, archived = collections.Counter(), []
    for pair in every:
        theirs = within(PEER_SECONDS, ask_peer, pair)
        ours = ask_ours(chosen.binary, bodies, pair)
        if pair.name.startswith("archived-"):
            archived.append((pair.name, in_short(ours), in_short(theirs)))
        found = collections.defaultdict(list)
        for row, what in disagreements(pair, theirs, ours):
            found[row].append(what)
        both = "refused" not in theirs and "refused" not in ours
        compared = ROWS if both else ["decision"]
        counts.update((row, "compared") for row in compared)
        counts.update((row, "agree") for row in compared if row not in found)
        if both and all(ours["diffs"].values()):
            for name in ("html_text_dmp", "html_source_dmp"):
                edits[name, "ours"] += edited(ours["diffs"][name])
                edits[name, "theirs"] += edited(theirs["diffs"][name])
        for row, what in found.items():
            key = next((key for key in ((pair.name, row), (pair.digest, row)) if key in known), None)
            used.add(key)
            if key is None:
                unexplained.append(f"{pair.name} {pair.digest} {row}: {'; '.join(what)}")
            if chosen.verbose:
                print(f"{pair.name} {pair.digest} {row}: {'; '.join(what)}\n    {known.get(key, 'NOT EXPLAINED')}")
    for name, ours, theirs in archived:
        print(f"{name:<34}{ours:<40} theirs: {theirs}")
    return tell(every, counts, edits, unexplained, stale(known, used, every))


def in_short(answer):
    """Changes of each diff, or why there is none."""
    if "refused" in answer:
        return f"refused: {' '.join(answer['refused'].split())}"[:38]
    changed = {name: sum(1 for step in steps if step[0]) for name, steps in answer["diffs"].items()}
    return f"text {changed['html_text_dmp']}, source {changed['html_source_dmp']}, links {changed['links_json']}"


def stale(known, used, every):
    here = {name for pair in every for name in (pair.name, pair.digest)}
    return [f"{pair} {row}" for pair, row in known if pair in here and (pair, row) not in used]


def tell(every, counts, edits, unexplained, idle):
    print(f"{len(every)} pairs")
    for row in ROWS:
        agree, compared = counts[row, "agree"], counts[row, "compared"]
        print(f"  {row:<10}{agree:>5} of {compared:<5}{100 * agree / compared if compared else 100:6.1f} %")
    for name in ("html_text_dmp", "html_source_dmp"):
        if edits[name, "theirs"]:
            print(f"  {name}: {edits[name, 'ours']} characters edited, theirs {edits[name, 'theirs']}")
    for line in unexplained:
        print(f"NOT EXPLAINED {line}", file=sys.stderr)
    for line in idle:
        print(f"NO LONGER SO  {line}: take it out of explained.toml", file=sys.stderr)
    return 1 if unexplained or idle or not every else 0


if __name__ == "__main__":
    sys.exit(main())
