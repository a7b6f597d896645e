//! Links on a page that comes back through a proxy: those that lead to a place on the server get the path below which
//! the client finds it. What else is on the page passes as it came, chunk by chunk. Pure.

use super::headers::relocated;

/// Attributes that are one URL, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text up to their own end tag.
const RAW: &[&str] = &[
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes",
];
/// Bytes of a tag that are kept until its end has come; a longer one passes as it is.
const LONGEST_TAG: usize = 64 << 10;

/// Where a page is, and what of it is not decided yet.
#[derive(Debug)]
pub(super) struct Links {
    /// The path that leads to the server.
    prefix: String,
    /// What the server is called by the request.
    host: String,
    held: Vec<u8>,
    /// Passing all up to this, in lower case: the end of a comment or of an element with text.
    until: Option<Vec<u8>>,
}

/// What a page goes on with.
enum Piece {
    /// So many bytes that pass.
    Plain(usize),
    Comment,
    Tag(Tag),
    /// Not known before more has come.
    Unfinished,
}

/// A whole start tag, as places in the text.
struct Tag {
    end: usize,
    name: std::ops::Range<usize>,
    /// Names and values.
    attributes: Vec<(std::ops::Range<usize>, std::ops::Range<usize>)>,
}

impl Links {
    pub(super) fn new(prefix: String, host: String) -> Self {
        Self {
            prefix,
            host,
            held: Vec::new(),
            until: None,
        }
    }

    /// What can go out now that `chunk` has come.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let passed = match &self.until {
                Some(end) => match find(rest, end) {
                    Some(at) => {
                        let passed = at + end.len();
                        self.until = None;
                        passed
                    }
                    // The end may have begun.
                    None => (rest.len() + 1).saturating_sub(end.len()),
                },
                None => match piece(rest) {
                    Piece::Plain(length) => length,
                    Piece::Comment => {
                        self.until = Some(b"-->".to_vec());
                        // `<!-->` is a whole one.
                        2
                    }
                    Piece::Tag(tag) => {
                        self.tag(rest, &tag, &mut out);
                        rest = &rest[tag.end..];
                        continue;
                    }
                    Piece::Unfinished if rest.len() > LONGEST_TAG => 1,
                    Piece::Unfinished => 0,
                },
            };
            if passed == 0 {
                break;
            }
            out.extend_from_slice(&rest[..passed]);
            rest = &rest[passed..];
        }
        self.held = rest.to_vec();
        out
    }

    /// What was held back, when nothing more comes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.held
    }

    fn tag(&mut self, text: &[u8], tag: &Tag, out: &mut Vec<u8>) {
        let name = String::from_utf8_lossy(&text[tag.name.clone()]).to_ascii_lowercase();
        if RAW.contains(&name.as_str()) {
            self.until = Some(format!("</{name}").into_bytes());
        }
        let links = LINKS.iter().find(|(element, _)| *element == name);
        let mut copied = 0;
        for (attribute, value) in &tag.attributes {
            let attribute = &text[attribute.clone()];
            let is_link = links.is_some_and(|(_, names)| {
                let mut names = names.iter();
                names.any(|name| attribute.eq_ignore_ascii_case(name.as_bytes()))
            });
            let link = std::str::from_utf8(&text[value.clone()]).unwrap_or_default();
            let link = link.trim();
            if !is_link || link.is_empty() {
                continue;
            }
            if let Some(link) = relocated(link, &self.prefix, &self.host) {
                out.extend_from_slice(&text[copied..value.start]);
                out.extend_from_slice(link.as_bytes());
                copied = value.end;
            }
        }
        out.extend_from_slice(&text[copied..tag.end]);
    }
}

/// The first place of `wanted`, which is in lower case.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window.eq_ignore_ascii_case(wanted))
}

fn piece(text: &[u8]) -> Piece {
    const COMMENT: &[u8] = b"<!--";
    match text.iter().position(|byte| *byte == b'<') {
        None => return Piece::Plain(text.len()),
        Some(0) => {}
        Some(at) => return Piece::Plain(at),
    }
    if text.starts_with(COMMENT) {
        return Piece::Comment;
    }
    if COMMENT.starts_with(text) {
        return Piece::Unfinished;
    }
    if !text[1].is_ascii_alphabetic() {
        return Piece::Plain(1);
    }
    tag(text).map_or(Piece::Unfinished, Piece::Tag)
}

/// The start tag that `text` begins with; `None` when its end is not there.
fn tag(text: &[u8]) -> Option<Tag> {
    let upto = |from: usize, ends: fn(u8) -> bool| {
        let length = text.get(from..)?.iter().position(|byte| ends(*byte))?;
        Some(from + length)
    };
    let mut at = upto(1, |byte| {
        byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')
    })?;
    let name = 1..at;
    let mut attributes = Vec::new();
    loop {
        at = upto(at, |byte| !byte.is_ascii_whitespace() && byte != b'/')?;
        if text[at] == b'>' {
            let end = at + 1;
            return Some(Tag {
                end,
                name,
                attributes,
            });
        }
        // An equals sign that comes first is part of the name.
        let ends = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'=');
        let attribute = at..upto(at + 1, ends)?;
        at = upto(attribute.end, |byte| !byte.is_ascii_whitespace())?;
        if text[at] != b'=' {
            at = attribute.end;
            continue;
        }
        at = upto(at + 1, |byte| !byte.is_ascii_whitespace())?;
        let value = match text[at] {
            b'"' => at + 1..upto(at + 1, |byte| byte == b'"')?,
            b'\'' => at + 1..upto(at + 1, |byte| byte == b'\'')?,
            _ => at..upto(at, |byte| byte.is_ascii_whitespace() || byte == b'>')?,
        };
        let quoted = value.start > at;
        at = value.end + usize::from(quoted);
        attributes.push((attribute, value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/b/proxy";

    /// Through chunks of so many bytes.
    fn through(page: &[u8], size: usize) -> String {
        let mut links = Links::new(PREFIX.to_owned(), "here:80".to_owned());
        let mut out = Vec::new();
        for chunk in page.chunks(size) {
            out.extend(links.push(chunk));
        }
        out.extend(links.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_to_the_server_lead_through_the_proxy() {
        // `~` is where the prefix comes.
        for page in [
            r#"<a href="~/rewriteme">test</a>"#,
            r#"<A class=x HREF = '~/x?y=1&amp;z#f' >t</A>"#,
            "<img src=~/i.png/>and<br>",
            r#"<script src="~/s.js">if (a < b) { x = '<a href="/no">' }</script><a href="~/y">"#,
            r#"<!-- <a href="/no"> --><a href="~/y"><!--><a href="~/z">"#,
            r#"<video poster="~/p" src='~/v' data-src="/no"></video>"#,
            r##"<a href=""><a href="#f"><a href="next"><a href="//else/x"><a href="http://else/x">"##,
            "<p title='/no' =href=/no href = /no>a < b</p><a href='~/x'",
            "<a disabled / href='~/x'><a href>",
            "<a hr",
        ] {
            let came = page.replace('~', "");
            let expected = match page.ends_with('\'') {
                // The tag never ends.
                true => page.replace("='~/x'", "='/x'"),
                false => page.to_owned(),
            };
            for size in [1, 2, 3, 7, came.len()] {
                let expected = expected.replace('~', PREFIX);
                assert_eq!(through(came.as_bytes(), size), expected, "{size}: {page}");
            }
        }
        let whole = r#"<a href="http://here:80/x"><a href="/api/v1/namespaces/a/pods/b/proxy/x">"#;
        let expected = format!(r#"<a href="{PREFIX}/x"><a href="{PREFIX}/x">"#);
        assert_eq!(through(whole.as_bytes(), 5), expected);
        let long = format!(
            "<a title='{}' href='/x'><a href='/y'>",
            "x".repeat(2 * LONGEST_TAG)
        );
        let expected = long.replace("/y", &format!("{PREFIX}/y"));
        assert_eq!(through(long.as_bytes(), 4096), expected);
    }

    proptest! {
        #[test]
        fn how_a_page_comes_in_chunks_does_not_matter(
            page in "(<|>|a|!--|-->|</?script|href|src|=|\"|'|/| |é){0,40}", size in 1_usize..20
        ) {
            prop_assert_eq!(through(page.as_bytes(), size), through(page.as_bytes(), 1 << 20));
        }

        #[test]
        fn a_page_without_links_passes_as_it_is(page in "[<>a-z!\"'= -]{0,80}") {
            prop_assert_eq!(through(page.as_bytes(), 9), page);
        }
    }
}
