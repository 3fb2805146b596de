"""The pages of the report, parsed."""

import html.parser

from report import write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """The content of a page; its tags must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.headings, self.ids = [], [], [], []
        self.links, self.images, self.rows, self.scopes = [], [], [], []
        self.lang, self.words = None, []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "html":
            self.lang = attrs["lang"]
        elif tag == "section":
            self.sections.append(attrs["id"])
        elif tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        elif tag == "img":
            self.images.append(attrs)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.scopes += [attrs.get("scope")] if tag == "th" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    def row(self, head):
        """The cells of the first row of a table's body that begins with `head`."""
        return next(
            [cell.strip() for cell in row]
            for row in self.rows
            if len(row) > 2 and row[0].strip() == head
        )


def page_of(run):
    """The text of the run's report and its parsed page."""
    path = write_report(run)
    assert path == run.report
    text = path.read_text()
    return text, Page(text)


def signed(value):
    """A gain as the page prints it: its minus is as wide as a plus."""
    return f"{value:+.4f}".replace("-", "−")
