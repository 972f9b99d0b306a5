#!/usr/bin/env python3
"""The three diffs of web-monitoring-diff for pairs of files, one after the other: the peer of `cargo bench --bench engine`.

Reads a pair of paths a line, with a tab between them, and answers each with a line: `ok`, or what the peer said.
The peer is GPL-3.0: it is run here, and nothing of it is copied.
"""

import pathlib
import sys
import types

from web_monitoring_diff import basic_diffs, html_links_diff
from web_monitoring_diff.server import server

DIFFS = [basic_diffs.html_text_diff, basic_diffs.html_source_diff, html_links_diff.links_diff_json]


def response(path):
    return types.SimpleNamespace(request=types.SimpleNamespace(url="http://127.0.0.1/"),
                                 body=pathlib.Path(path).read_bytes(), headers={"Content-Type": "text/html"})


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        a, b = (response(path) for path in line.rstrip("\n").split("\t"))
        try:
            for diff in DIFFS:
                server.caller(diff, a, b)
            said = "ok"
        except Exception as error:  # what it refuses is refused by an exception of any kind
            said = type(error).__name__
        print(said, flush=True)


if __name__ == "__main__":
    main()
