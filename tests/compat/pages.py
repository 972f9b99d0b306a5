"""Pairs of pages made up here, the same ones every time: what CI compares, because real pages are not ours to keep.

A pair is (name, older body, newer body, their two Content-Types).
"""

import gzip
import pathlib
import random
import zlib

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
EDITED = 60
HTML = ("text/html", "text/html")

WORDS = """agency air water climate data report emission plan energy public health river lake permit rule standard power
plant carbon science page update program region office grant fund waste site cleanup review comment notice hearing
state federal local community map search contact about news release fact sheet summary record archive""".split()


def pairs():
    yield ("fixture", read("pages/before.html"), read("pages/after.html"), HTML)
    yield from by_hand()
    yield from in_encodings()
    yield from refused()
    yield from as_archived()
    for seed in range(EDITED):
        yield (f"edited-{seed:02}", *(side.encode() for side in edited(seed)), ("text/html; charset=utf-8",) * 2)


def read(name):
    return (FIXTURES / name).read_bytes()


def by_hand():
    """A rule of the text, of the links or of the steps each, and a change of each kind."""
    for name, old, new in [
        ("same", "<p>same", "<p>same"),
        ("both-empty", "", ""),
        ("became-empty", "<p>text", ""),
        ("word", "<p>Deleted</p><p>Unchanged</p>", "<p>Added</p><p>Unchanged</p>"),
        ("markup-only", "<p>one <b>two</b> three</p>", "<p>one <i>two</i> three</p>"),
        ("joined-by-spaces", "Hello <b>W</b>orld", "Hello <b>w</b>orld"),
        ("blank-lines", "<p>a</p>\n\n \n<p>b</p>", "<p>a</p>\n<p>b</p>"),
        ("unseen", "<title>a</title><style>b{}</style><script>c</script><p>d", "<title>A</title><style>B{}</style><p>d"),
        ("noscript", "<body><noscript><p>turn it on</noscript>", "<body><noscript><p>switch it on</noscript>"),
        ("form", "<textarea>a <b></textarea><select><option>x<option>y</select>", "<textarea>a <b></textarea><select><option>x</select>"),
        ("comments", "<p>a<!-- b -->c<!-- d", "<p>a<!-- bb -->c<!-- dd"),
        ("entities", "<p>a &amp; b &lt; c &eacute; &#8212;", "<p>a &amp; b &gt; c &egrave; &#8211;"),
        ("tables", "<table>foster<tr><td>cell</table>", "<table>fostered<tr><td>cells</table>"),
        ("misnested", "<p>1<b>2<i>3</b>4</i>5</p>", "<p>1<b>2<i>3</b>4</i>6</p>"),
        ("svg", "<svg><title>t</title><text>label</text></svg>", "<svg><title>t</title><text>labels</text></svg>"),
        ("astral", "<p>plain \U0001f389 text", "<p>plain \U0001f38a text"),
        ("rails-escapes", "<a href='/x?a=1&b=2'>a &lt;b&gt; & c</a>", "<a href='/x?a=1&b=3'>a &lt;b&gt; & c</a> \u2028 / \\ \""),
        ("link-target", "<a href=/a>link</a>", "<a href=/b>link</a>"),
        ("link-text", "<a href=/a>old name</a>", "<a href=/a>new name</a>"),
        ("link-added", "<a href=/a>a</a>", "<a href=/a>a</a><a href=/b>b</a>"),
        ("link-removed", "<a href=/a>a</a><a href=/b>b</a>", "<a href=/b>b</a>"),
        ("link-case", "<a href=HTTP://Agency.TEST/Path>Home</a>", "<a href=http://agency.test/Path>HOME</a>"),
        ("link-within", "<a href=#top>top</a><a href=''>none</a><a href=/x>x</a>", "<a href=#end>end</a><a href=/x>x</a>"),
        ("link-image", "<a href=/x><img alt='a cat'></a><a href=/y><img></a>", "<a href=/x><img alt='a dog'></a><a href=/y><img></a>"),
        ("link-title", "<a href=/x title='a tip'> </a><a href=/y></a>", "<a href=/x title='two tips'> </a><a href=/y></a>"),
        ("link-muted", "<a href=/x>a<script>s</script><svg><text>s</text></svg>b</a>", "<a href=/x>a<select><option>s</select>c</a>"),
        ("link-shared-text", "<a href=/1>Read more</a><a href=/2>Read more</a>", "<a href=/1>Read more</a><a href=/3>Read more</a>"),
        ("link-both-ways", "<a href=/1>t</a>", "<a href=/2>t</a><a href=/1>u</a>"),
        ("links-nested", "<a href=/1>one<a href=/2>two", "<a href=/1>one<a href=/2>three"),
    ]:
        yield (name, old.encode(), new.encode(), ("text/html; charset=utf-8",) * 2)


def in_encodings():
    """One sentence in what pages are written in, declared in each place where it may be."""
    old, new = "<p>B\xf6rse \u2013 \xc4rger \xfcber Geb\xfchren</p>", "<p>B\xf6rse \u2013 \xc4rger \xfcber Steuern</p>"
    for name, head, encoding, content_type in [
        ("header", "", "utf-8", "text/html; charset=utf-8"),
        ("header-upper", "", "cp1252", "text/html; charset=WINDOWS-1252"),
        ("latin-1-is-1252", "", "cp1252", "text/html; charset=iso-8859-1"),
        ("meta", "<meta charset=utf-8>", "utf-8", "text/html"),
        ("meta-long", "<meta http-equiv=Content-Type content='text/html; charset=windows-1252'>", "cp1252", "text/html"),
        ("prolog", "<?xml version='1.0' encoding='windows-1252'?>", "cp1252", "text/html"),
        ("slip-of-the-pen", "", "cp1252", "text/html; charset=iso-8559-1"),
        ("unheard-of", "", "utf-8", "text/html; charset=klingon"),
        ("meta-in-capitals", "<meta charset=ISO-8859-1>", "cp1252", "text/html"),
    ]:
        yield (f"encoding-{name}", *((head + side).encode(encoding) for side in (old, new)), (content_type,) * 2)
    yield ("encoding-other", *((s + "\u0430\u0431\u0432").encode("utf-8") for s in (old, new)), ("text/html; charset=UTF-8",) * 2)
    yield ("nul", b"<p>a\0 few of them in a longer text", b"<p>a\0 few of those in a longer text", HTML)
    yield ("broken-utf-8", b"<p>one \xff two", b"<p>one \xff three", ("text/html; charset=utf-8",) * 2)


def refused():
    """What is no page, with and without a header that says so."""
    page, pdf = read("pages/before.html"), read("incident/from")
    noise = random.Random(7).randbytes(20_000)
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + noise
    for name, other, content_type in [
        ("pdf-declared", pdf, "application/pdf"),
        ("pdf-as-page", pdf, "text/html"),
        ("pdf-as-latin-1", pdf, "text/html; charset=iso-8859-1"),
        ("png-as-page", png, "text/html; charset=utf-8"),
        ("noise", noise, "text/html; charset=utf-8"),
        ("json", b'{"error": "gone", "pages": [1, 2, 3]}', "application/json"),
    ]:
        yield (f"refused-{name}", page, other, ("text/html", content_type))


def as_archived():
    """What archives and servers do to a page on its way: one pair for each class of what is read with more care here."""
    old, new = ("<!doctype html><title>x</title><h1>Rule</h1><p>Comments close on %s May.</p><a href=/d>Docket</a>" % day
                for day in ("4", "5"))
    russian = "<p>\u0421\u0442\u0440\u0430\u043d\u0438\u0446\u0430 \u043e \u043f\u043e\u0433\u043e\u0434\u0435</p>" * 20
    japanese = ["<p>\u610f\u898b\u306f%s\u65e5\u307e\u3067</p>" % day for day in "45"]
    xhtml = ["<html xmlns='http://www.w3.org/1999/xhtml'><head><title/><script src='x'/></head><body>%s</body></html>"
             % body.split("</title>")[1].replace("href=/d", "href='/d'") for body in (old, new)]
    text = ("text/html; charset=utf-8",) * 2
    a, b = old.encode(), new.encode()
    for name, before, after, types in [
        ("gzip-without-label", gzip.compress(a, mtime=0), gzip.compress(b, mtime=0), text),
        ("zlib-without-label", zlib.compress(a), b, text),
        ("gzip-cut-short", gzip.compress(a, mtime=0)[:-8], b, text),
        ("stray-byte", russian.encode(), russian.encode() + b"\x96 2018", HTML),
        ("cut-inside-a-character", russian.encode(), (russian + "\u044f").encode()[:-1], HTML),
        ("iso-2022-jp", *(side.encode("iso2022_jp") for side in japanese), HTML),
        ("utf-16-without-mark", *(side.encode("utf-16-le") for side in (old, new)), HTML),
        ("late-meta", *(b"<link rel=x href=y>" * 200 + b"<meta charset=koi8-r>" + (russian + side).encode("koi8_r")
                        for side in "45"), HTML),
        ("charset-in-a-description", *(b"<meta name=description content='charset=koi8-r'>" + (russian + side).encode()
                                       for side in "45"), HTML),
        ("nul-padding", a + bytes(900) + b"<p>4", a + bytes(900) + b"<p>5", text),
        ("text-with-an-example", b"Save it.\n", b"Save it.\n<html><body>x\n", ("text/plain",) * 2),
        ("json-with-nan", b'{"a": 1}', b'{"a": NaN}', ("application/json",) * 2),
        ("page-vanished", a, b"404 page not found\n", ("text/html", "text/plain; charset=utf-8")),
        ("page-became-pdf", a, read("incident/from"), ("text/html", "application/pdf")),
        ("pdf-behind-a-notice", a, b"<br />\n<b>Notice</b>: x\n" + read("incident/from"), HTML),
        ("xhtml-empty-elements", *(side.encode() for side in xhtml), ("application/xhtml+xml",) * 2),
        ("links-in-svg", b"<p>x<svg><a href=/a>Map</a></svg>", b"<p>x<svg><a href=/b>Map</a></svg>", text),
        ("two-content-types", *((russian + side).encode("cp1251") for side in "45"),
         ("text/html; charset=windows-1251, text/html",) * 2),
    ]:
        yield (f"archived-{name}", before, after, types)


def edited(seed):
    """A page of sections and links, and the same with the edits that pages see."""
    dice = random.Random(seed)
    sections = [section(dice) for _ in range(dice.randint(2, 25))]
    changed = list(sections)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(changed))
        edit = dice.choice(["word", "word", "word", "insert", "remove", "move", "link", "markup"])
        if edit == "insert" or not changed[at].strip():
            changed.insert(at, section(dice))
        elif edit == "remove" and len(changed) > 1:
            del changed[at]
        elif edit == "move":
            changed.append(changed.pop(at))
        elif edit == "link":
            changed[at] += link(dice)
        elif edit == "markup":
            changed[at] = changed[at].replace("<div>", f"<div class=c{dice.randrange(99)}>")
        else:
            words = changed[at].split(" ")
            words[dice.randrange(len(words) // 2, len(words) - 1)] = dice.choice(WORDS)
            changed[at] = " ".join(words)
    return page(sections), page(changed)


def page(sections):
    return f"<!doctype html>\n<html><head><title>Agency</title></head>\n<body>\n{''.join(sections)}</body></html>\n"


def section(dice):
    text = " ".join(dice.choice(WORDS) for _ in range(dice.randint(5, 60)))
    links = "".join(link(dice) for _ in range(dice.randint(0, 4)))
    return f"<div>\n<h2>{dice.choice(WORDS)} {dice.randrange(100)}</h2>\n<p>{text} .</p>\n{links}</div>\n"


def link(dice):
    return f"<a href=/{dice.choice(WORDS)}/{dice.randrange(1000)}>{dice.choice(WORDS)} {dice.choice(WORDS)}</a>\n"
