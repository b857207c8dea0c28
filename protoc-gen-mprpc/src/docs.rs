//! Comments of a `.proto` file as rustdoc text.

use protobuf::descriptor::{FileDescriptorProto, source_code_info::Location};
use std::collections::HashMap;

/// The comments of one file, by the path of the element they belong to.
pub(crate) struct Comments<'a>(HashMap<&'a [i32], &'a Location>);

impl<'a> Comments<'a> {
    pub(crate) fn new(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Self(locations.map(|location| (location.path.as_slice(), location)).collect())
    }

    /// Doc lines of the element at `path`: the comment before it, then the one behind it. Empty if there is none.
    pub(crate) fn lines(&self, path: &[i32]) -> Vec<String> {
        let Some(location) = self.0.get(path) else {
            return Vec::new();
        };
        let mut comment = location.leading_comments().to_owned();
        if !location.trailing_comments().trim().is_empty() {
            if !comment.trim().is_empty() {
                comment.push_str("\n\n");
            }
            comment.push_str(location.trailing_comments());
        }
        rustdoc(&comment)
    }
}

/// Makes a comment safe as a doc comment: what rustdoc would run, link or take for HTML stays text.
fn rustdoc(comment: &str) -> Vec<String> {
    let lines: Vec<String> = comment.lines().map(clean).collect();
    let mut out: Vec<String> = Vec::new();
    let mut fence = Fence::None;
    for line in lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)) {
        let text = line.trim_start();
        let indented = text.len() < line.len() && (line.starts_with("    ") || line.starts_with('\t'));
        let marker = ["```", "~~~"].into_iter().find(|marker| text.starts_with(marker));
        match (&fence, marker) {
            (Fence::Own(open), Some(marker)) if marker == *open => {
                out.push("```".to_owned());
                fence = Fence::None;
                continue;
            }
            (Fence::Own(_), _) => {
                out.push(line.replace("```", "'''"));
                continue;
            }
            (Fence::Indent, _) if indented || text.is_empty() => {}
            (Fence::Indent, _) => {
                close_indent(&mut out);
                fence = Fence::None;
            }
            (Fence::None, _) => {}
        }
        let starts_block = out.last().is_none_or(String::is_empty);
        if fence == Fence::None && indented && starts_block {
            out.push("```text".to_owned());
            fence = Fence::Indent;
        }
        match (&fence, marker) {
            (Fence::Indent, _) => out.push(line.strip_prefix("    ").unwrap_or(text).replace("```", "'''")),
            (_, Some(marker)) => {
                out.push("```text".to_owned());
                fence = Fence::Own(marker);
            }
            _ => out.push(escape(line)),
        }
    }
    match fence {
        Fence::Own(_) => out.push("```".to_owned()),
        Fence::Indent => close_indent(&mut out),
        Fence::None => {}
    }
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out.drain(..out.iter().take_while(|line| line.is_empty()).count());
    out
}

/// In which block of code a line stands.
#[derive(PartialEq)]
enum Fence {
    None,
    /// Lines indented by four spaces, which Markdown takes for Rust to run.
    Indent,
    /// The author's own, opened by this marker.
    Own(&'static str),
}

/// Ends an indented block before the empty lines that follow it.
fn close_indent(out: &mut Vec<String>) {
    let blank = out.iter().rev().take_while(|line| line.is_empty()).count();
    out.insert(out.len() - blank, "```".to_owned());
    if blank == 0 {
        out.push(String::new());
    }
}

/// Drops what the compiler refuses in a comment: control characters, and those that turn the writing direction.
fn clean(line: &str) -> String {
    let refused = |c: char| {
        (c.is_control() && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    line.trim_end().chars().filter(|&c| !refused(c)).collect()
}

/// Escapes brackets outside code spans.
fn escape(line: &str) -> String {
    let spans = line.matches('`').count().is_multiple_of(2);
    let mut in_span = false;
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '`' if spans => in_span = !in_span,
            '[' | ']' | '<' if !in_span => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::rustdoc;

    #[test]
    fn an_indented_line_is_text_and_not_a_doctest() {
        assert_eq!(
            rustdoc(" Logs in:\n\n     stub.login()\n\n     again()\n after"),
            ["Logs in:", "", "```text", "stub.login()", "", "again()", "```", "", "after"]
        );
        assert_eq!(rustdoc("     only code"), ["```text", "only code", "```"]);
        assert_eq!(rustdoc("     code\n\n\n text"), ["```text", "code", "```", "", "", "text"]);
    }

    #[test]
    fn an_indented_line_inside_a_paragraph_stays_in_it() {
        assert_eq!(rustdoc(" - one\n     more of one"), ["- one", "    more of one"]);
    }

    #[test]
    fn fences_are_text_and_always_closed() {
        assert_eq!(rustdoc(" ```\n panic!()\n ```"), ["```text", "panic!()", "```"]);
        assert_eq!(rustdoc(" ~~~rust\n a\n ```\n b"), ["```text", "a", "'''", "b", "```"]);
    }

    #[test]
    fn brackets_are_no_links_and_tags_are_no_html() {
        assert_eq!(rustdoc(" see [Other] and `a[0]` <b>"), ["see \\[Other\\] and `a[0]` \\<b>"]);
        assert_eq!(rustdoc(" an odd ` and [x]"), ["an odd ` and \\[x\\]"]);
    }

    #[test]
    fn what_the_compiler_refuses_in_a_comment_is_dropped() {
        assert_eq!(rustdoc(" a\r\n b\u{202e}c\u{0}\r\r\n"), ["a", "bc"]);
        assert_eq!(rustdoc(" \n\n"), Vec::<String>::new());
    }
}
